"""What training and tracking cost the compared networks. They take turns in one process."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from e3sn_lib.config import Profile
from e3sn_lib.data.pairs import Batch, Source
from e3sn_lib.geometry import Image
from e3sn_lib.model.device import machine
from e3sn_lib.model.network import BASE_MASK, E3SN, Search, Template, build_model, count_parameters
from e3sn_lib.model.torch_backend import TorchBackend
from e3sn_lib.model.windows import Cells
from e3sn_lib.tracking.backends import Backend
from e3sn_lib.tracking.tracker import Targets, Tracker
from e3sn_study.bench.steps import Stepper, first_batch, initialise_backbone, phases, take_turns
from e3sn_study.records.schema import SCHEMAS, TRACKING, TRAINING, WHOLE_MAPS


class WholeMaps(E3SN):
    """The same network, which computes every position of every correlation map, as figure 2 of the
    paper and SiamMask's public code do.

    With batch-norm in evaluation mode, the outputs equal those of E3SN. In training, the batch-norm
    statistics come from whole maps instead of windows.
    """

    def correlate(self, template: Template, search: Search, cells: Cells) -> Tensor:
        """Compute whole maps and take the chosen cells from them: (N, C)."""
        first, chosen = 4 - search.margin // 8, []
        maps = self.mask.whole_maps(template, search)
        for level, whole in zip(self.mask.names, maps, strict=True):
            step = 2 if level == 2 else 1
            row, column = step * (cells.row + first), step * (cells.column + first)
            chosen.append(whole[cells.image, :, row, column])
        return self.mask.fusion(chosen)

    def segment_base(self, template: Template, search: Search, cells: Cells) -> Tensor:
        """Compute the 63 x 63 head on whole maps, as SiamMask's first stage does; conv4 only."""
        assert self.base_head
        masks = self.base_head(self.mask.fusion(self.mask.whole_maps(template, search)))
        chosen = masks[cells.image, :, cells.row, cells.column]
        return chosen.unflatten(1, (BASE_MASK, BASE_MASK)).float()


PARTS = {TRAINING: E3SN, WHOLE_MAPS: WholeMaps}
"""How training steps are computed, by part."""


def network_sizes(profiles: Mapping[str, Profile]) -> pd.DataFrame:
    """Return one row per variant: variant, backbone, levels (of the mask), stages (of training),
    parameters, and multiply_adds for one object in one frame: search features, location, one mask.
    """
    rows = []
    for variant, profile in profiles.items():
        model = build_model(profile.model)
        if not profile.train.train_shortcuts:
            initialise_backbone(model, profile)  # what is zero in it stays so and is not computed
        levels = ", ".join(map(str, profile.model.levels))
        counts = (count_parameters(model), operations(TorchBackend(model)) // 2)
        rows.append((variant, profile.model.backbone, levels, ", ".join(profile.stages), *counts))
    return pd.DataFrame(rows, columns=SCHEMAS["networks"].columns)


def operations(backend: Backend) -> int:
    """Count multiplications and additions of a tracking step with one object."""
    template = backend.encode_template(np.zeros((1, 127, 127, 3), np.uint8))
    with FlopCounterMode(display=False) as counter:
        *_, features = backend.search(np.zeros((1, 255, 255, 3), np.uint8), template)
        backend.segment(template, features, np.full((1, 2), 12))
    return int(counter.get_total_flops())


def variant_costs(
    profiles: Mapping[str, Profile],
    sources: list[Source],
    trackers: Mapping[str, Tracker],
    frames: Iterable[Image],
    box_frame_xywh: Sequence[float],
    steps: int = 4,
) -> pd.DataFrame:
    """Time training steps in every phase of each network, and tracking steps on the same frames.

    Training steps are timed twice: as this project computes them, and with whole correlation maps.
    Without `sources`, training steps are computed on noise. At least two frames are needed; the box
    is that of the object in the first one. Of each phase `steps` are timed, after one to warm up.

    Return variant, part (see `PARTS`, or tracking), stage, backbone (frozen or trained), share (of
    the variant's pairs that this phase trains), seconds, batch (pairs per step), machine. Seconds
    are per training pair, of the fastest step, because other programs disturb it least; or per
    object and frame of tracking, the median.
    """
    rows = _training(profiles, sources, steps)
    first, *remaining = frames
    entries = {
        variant: partial(_frame_seconds, each, each.start(first, [box_frame_xywh]), iter(remaining))
        for variant, each in trackers.items()
    }
    times = take_turns(entries, len(remaining) - 1)
    rows += [(name, TRACKING, "", "", 1.0, float(np.median(t))) for name, t in times.items()]
    batch = next(iter(profiles.values())).train.batch_size
    columns = ["variant", "part", "stage", "backbone", "share", "seconds"]
    return pd.DataFrame(rows, columns=columns).assign(batch=batch, machine=machine()["machine"])


def _training(
    profiles: Mapping[str, Profile], sources: list[Source], steps: int
) -> list[tuple[Any, ...]]:
    entries: dict[tuple[Any, ...], Callable[[], float]] = {}
    for (part, network), (variant, profile) in product(PARTS.items(), profiles.items()):
        model = network(profile.model).to(memory_format=torch.channels_last)
        initialise_backbone(model, profile)
        found = phases(profile)
        for phase in found:
            batch, _ = first_batch(profile, phase.stage.config, sources, profile.train.batch_size)
            share = phase.steps / sum(each.steps for each in found)
            backbone = "trained" if phase.backbone else "frozen"
            stepper = Stepper(profile, phase.stage.config, model)
            key = (variant, part, phase.stage.name, backbone, share)
            entries[key] = partial(_pair_seconds, stepper, phase.backbone, batch)
    return [(*key, min(seconds)) for key, seconds in take_turns(entries, steps).items()]


def _pair_seconds(stepper: Stepper, backbone: bool, batch: Batch) -> float:
    stepper.train_backbone(backbone)  # phases of one variant share the network
    return sum(stepper.step(batch)) / len(batch.template)


def _frame_seconds(tracker: Tracker, targets: Targets, frames: Iterator[Image]) -> float:
    begun = time.perf_counter()
    tracker.step(next(frames), targets)  # returns masks on the CPU, so a GPU has finished
    return time.perf_counter() - begun
