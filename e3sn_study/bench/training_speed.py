"""How fast the training loop is, against a plain version of itself; and whether half precision learns the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from e3sn_lib.config import Precision, Profile, StageConfig
from e3sn_lib.data.pairs import Source
from e3sn_lib.errors import InputError
from e3sn_lib.model.network import BASE_MASK, E3SN, Search, Template, build_model
from e3sn_lib.model.windows import Cells
from e3sn_lib.profiles.loading import load_profile
from e3sn_lib.training.loop import Trainer
from e3sn_study.bench.planning import phases
from e3sn_study.bench.steps import Stepper, StepTime, first_batch, initialise_backbone

OURS, PLAIN, TWO_STAGE = "this loop", "plain", "plain SiamMask"


class PlainE3SN(E3SN):
    """The same network, computed as a plain loop does: every position of every correlation map, tensors in PyTorch's own layout.

    With batch-norm in eval mode its outputs equal E3SN's; in training, statistics come from whole maps instead of windows.
    """

    def correlate(self, template: Template, search: Search, cells: Cells) -> Tensor:
        """Whole maps, of which the chosen cells are taken: (N, C)."""
        row, column, first = cells.row, cells.column, 4 - search.margin // 8
        chosen = []
        for level, whole in zip(self.mask.names, self.mask.whole_maps(template, search), strict=True):
            step = 2 if level == 2 else 1
            chosen.append(whole[cells.image, :, step * (row + first), step * (column + first)])
        return self.mask.fusion(chosen)

    def segment(self, template: Template, search: Search, cells: Cells) -> Tensor:
        handle = self.refine.register_forward_pre_hook(lambda _, inputs: tuple(each.contiguous() for each in inputs))
        try:
            return super().segment(template, search, cells)
        finally:
            handle.remove()

    def segment_base(self, template: Template, search: Search, cells: Cells) -> Tensor:
        """The 63 x 63 head on whole maps as well, as SiamMask's first stage has it; for a network of conv4 alone."""
        if self.base_head is None or self.mask.names != (4,):
            raise InputError("the base mask head on whole maps needs model.base_head=true and model.levels=[4]")
        masks = self.base_head(self.mask.fusion(self.mask.whole_maps(template, search)))
        return masks[cells.image, :, cells.row, cells.column].unflatten(1, (BASE_MASK, BASE_MASK)).float()

    def _features(self, image: Tensor) -> Any:
        return self.backbone(((image.float() - self.mean) / self.std).contiguous())


def bench_training(profile: Profile, sources: list[Source], batch_size: int = 8, steps: int = 4) -> pd.DataFrame:
    """Time training steps of this loop, of a plain version of it and of SiamMask's first stage as a plain loop, taking turns.

    Plain is fp32, contiguous, every position, 3x3 shortcuts in full. All compute the same pairs (SiamMask: its own samples of
    them); the fastest of `steps` counts, which other programs disturb least.

    Args:
        profile: of the ``e3sn`` variant.
        sources: where pairs come from; none: steps are computed on noise.
        batch_size: pairs per step.
        steps: timed, for each contender and phase, after one that warms up.

    Returns:
        One row per phase and contender: phase, contender, pairs_per_second, ratio (this loop's rate over the contender's),
        seconds of forward, backward, update, and data (to prepare the batch in one process; nan for noise).
    """
    entries = contenders(profile)
    batches = {name: first_batch(each.profile, each.stage, sources, batch_size) for name, each in entries.items()}
    rows = []
    for trained in (False, True):
        for stepper in entries.values():
            stepper.train_backbone(trained)
        times: dict[str, list[StepTime]] = {name: [] for name in entries}
        for turn in range(steps + 1):
            for name, stepper in entries.items():
                taken = stepper.step(batches[name][0])
                if turn or not steps:
                    times[name].append(taken)
        best = {name: min(taken, key=lambda each: each.total) for name, taken in times.items()}
        for name, time in best.items():
            rows.append(
                {
                    "phase": " ".join(profile.train.train_layers) + " trained" if trained else "backbone frozen",
                    "contender": name,
                    "pairs_per_second": batch_size / time.total,
                    "ratio": time.total / best[OURS].total,
                    "data": batches[name][1] * batch_size,
                    **time._asdict(),
                }
            )
    return pd.DataFrame(rows)


def contenders(profile: Profile) -> dict[str, Stepper]:
    """Steppers to be timed: this loop's, a plain one of the same network, and SiamMask's first stage as a plain one."""
    ours = build_model(profile.model)
    initialise_backbone(ours, profile)
    train = dataclasses.replace(profile.train, precision="fp32", train_shortcuts=True)
    same = {name: getattr(profile.model, name) for name in ("backbone", "block_layout", "channels")}
    baseline = load_profile("paper", "siammask")
    baseline = dataclasses.replace(
        baseline,
        model=dataclasses.replace(baseline.model, **same),
        data=profile.data,
        augment=profile.augment,
        train=train,
        stages={name: dataclasses.replace(stage, sets={}) for name, stage in baseline.stages.items()},
    )
    plain, two_stage = PlainE3SN(profile.model), PlainE3SN(baseline.model)
    plain.load_state_dict(ours.state_dict())
    two_stage.backbone.load_state_dict(ours.backbone.state_dict())
    return {
        OURS: Stepper(profile, _first_stage(profile), ours),
        PLAIN: _PlainStepper(dataclasses.replace(profile, train=train), _first_stage(profile), plain),
        TWO_STAGE: _PlainStepper(baseline, _first_stage(baseline), two_stage),
    }


class _PlainStepper(Stepper):
    def train_backbone(self, trained: bool) -> None:
        super().train_backbone(trained)
        for shortcut in self.model.backbone.shortcuts:
            shortcut.centre_only = False


def _first_stage(profile: Profile) -> StageConfig:
    return next(iter(profile.stages.values()))


def precision_profile(profile: Profile, precision: Precision, steps: int, batch_size: int) -> Profile:
    """A short run of the same seed and schedule in one precision, with some fifty rows of log."""
    train = dataclasses.replace(
        profile.train, precision=precision, pairs=steps * batch_size, batch_size=batch_size, log_every=max(steps // 50, 1)
    )
    return dataclasses.replace(profile, train=train)


def expected_seconds(profile: Profile, sources: list[Source]) -> float:
    """What a run is going to take on this machine, from a step of each of its phases, without reading data."""
    seconds, model = 0.0, build_model(profile.model)
    initialise_backbone(model, profile)
    for phase in phases(profile):
        stepper = Stepper(profile, phase.stage.config, model)
        stepper.train_backbone(phase.backbone)
        batch, _ = first_batch(profile, phase.stage.config, sources, profile.train.batch_size)
        seconds += phase.steps * min(stepper.step(batch).total for _ in range(2))
    return seconds


def train_precisions(profiles: Mapping[str, Profile], sources: list[Source], folder: Path) -> dict[str, pd.DataFrame]:
    """Train each profile in a folder of its name, or go on with it, and return the logs by name.

    Raises:
        InputError: as `Trainer.run`.
    """
    for name, profile in profiles.items():
        Trainer(profile, sources, folder / name, data_root=Path(profile.data.root)).run()
    return {name: pd.read_csv(folder / name / "log.csv") for name in profiles}


def precision_difference(reference: pd.DataFrame, other: pd.DataFrame, column: str = "loss") -> tuple[float, float]:
    """Mean difference of two logs of the same pairs over the second half of the run, and twice its standard error.

    Both as a share of the reference's mean. The rows are taken for independent, which they are only roughly.
    """
    both = reference[["step", column]].merge(other[["step", column]], on="step", suffixes=("", "_other")).dropna()
    half = both[both["step"] > both["step"].max() / 2]
    difference = (half[f"{column}_other"] - half[column]) / half[column].mean()
    return float(difference.mean()), float(2 * difference.std() / np.sqrt(len(difference)))
