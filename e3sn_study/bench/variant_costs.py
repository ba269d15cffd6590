"""What training and tracking cost the networks that are compared, taking turns in one process.

A machine is faster at one hour than at another, most of all a shared one; taking turns, all networks meet the same moods of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from e3sn_lib.config import Profile
from e3sn_lib.data.pairs import Source
from e3sn_lib.model.network import build_model, count_parameters
from e3sn_lib.model.windows import Cells
from e3sn_lib.tracking.tracker import Tracker
from e3sn_lib.training.provenance import environment
from e3sn_study.bench.planning import phases
from e3sn_study.bench.steps import Stepper, first_batch, initialise_backbone

COLUMNS = ("variant", "part", "stage", "backbone", "share", "seconds")


def network_sizes(profiles: Mapping[str, Profile]) -> pd.DataFrame:
    """Count parameters and work of each network.

    Args:
        profiles: of each variant.

    Returns:
        One row per variant: variant, backbone, levels (of the mask), stages (of training), parameters,
        and multiply_adds for one object in one frame: search features, location and one mask.
    """
    rows = []
    for variant, profile in profiles.items():
        model = build_model(profile.model).eval()
        centre = Cells(*(torch.tensor([index]) for index in (0, 12, 12)))
        with torch.inference_mode():
            template = model.encode_template(torch.zeros(1, 3, 127, 127))
            with FlopCounterMode(display=False) as counter:
                search = model.encode_search(torch.zeros(1, 3, 255, 255))
                model.locate(template, search)
                model.segment(template, search, centre)
        levels = ", ".join(map(str, profile.model.levels))
        counts = (count_parameters(model), counter.get_total_flops() // 2)
        rows.append((variant, profile.model.backbone, levels, ", ".join(profile.stages), *counts))
    columns = ["variant", "backbone", "levels", "stages", "parameters", "multiply_adds"]
    return pd.DataFrame(rows, columns=columns)


def variant_costs(
    profiles: Mapping[str, Profile],
    sources: list[Source],
    trackers: Mapping[str, Tracker],
    frames: Iterable[NDArray[np.uint8]],
    box_frame_xywh: Sequence[float],
    steps: int = 4,
) -> pd.DataFrame:
    """Time training steps of every phase of every network, and tracking steps on the same frames from the same box.

    Args:
        profiles: of each network; schedule, losses, batch size and precision.
        sources: where pairs come from; none: steps are computed on noise.
        trackers: of each network.
        frames: (H, W, 3) RGB uint8.
        box_frame_xywh: in the first frame.
        steps: timed, of each phase, after one that warms up.

    Returns:
        Variant, part (training or tracking), stage, backbone (frozen or trained), share (of the variant's pairs that are trained
        so) and seconds: for a training pair, of the fastest step, which other programs disturb least; for an object-frame, the
        median. Besides batch (pairs per step) and machine.
    """
    rows = [*_training(profiles, sources, steps), *_tracking(trackers, frames, box_frame_xywh)]
    batch = next(iter(profiles.values())).train.batch_size
    return pd.DataFrame(rows, columns=list(COLUMNS)).assign(batch=batch, machine=environment()["machine"])


def _training(profiles: Mapping[str, Profile], sources: list[Source], steps: int) -> list[tuple[Any, ...]]:
    entries = []
    for variant, profile in profiles.items():
        model = build_model(profile.model)
        initialise_backbone(model, profile)
        found = phases(profile)
        for phase in found:
            batch, _ = first_batch(profile, phase.stage.config, sources, profile.train.batch_size)
            share = phase.steps / sum(each.steps for each in found)
            entries.append((variant, phase, share, Stepper(profile, phase.stage.config, model), batch))
    seconds: list[list[float]] = [[] for _ in entries]
    for _ in range(steps + 1):
        for taken, (_, phase, _, stepper, batch) in zip(seconds, entries, strict=True):
            stepper.train_backbone(phase.backbone)
            taken.append(stepper.step(batch).total / len(batch.template))
    return [
        (variant, "training", phase.stage.name, "trained" if phase.backbone else "frozen", share, min(taken[1:]))
        for taken, (variant, phase, share, _, _) in zip(seconds, entries, strict=True)
    ]


def _tracking(
    trackers: Mapping[str, Tracker], frames: Iterable[NDArray[np.uint8]], box_frame_xywh: Sequence[float]
) -> list[tuple[Any, ...]]:
    remaining = iter(frames)
    first = next(remaining)
    targets = {variant: tracker.start(first, [box_frame_xywh]) for variant, tracker in trackers.items()}
    seconds: dict[str, list[float]] = {variant: [] for variant in trackers}
    for frame in remaining:
        for variant, tracker in trackers.items():
            begun = time.perf_counter()
            tracker.step(frame, targets[variant])  # its masks are on the CPU when it returns, so a GPU has finished
            seconds[variant].append(time.perf_counter() - begun)
    return [(variant, "tracking", "", "", 1.0, float(np.median(taken[1:]))) for variant, taken in seconds.items()]
