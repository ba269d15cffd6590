"""How fast the training loop is against a plain one; whether half precision learns the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
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
from e3sn_study.bench.steps import Stepper, first_batch, initialise_backbone, phases, take_turns

OURS, PLAIN, TWO_STAGE = "this loop", "plain", "plain SiamMask"


class PlainE3SN(E3SN):
    """The same network, computed in the plain way.

    It computes every position of every correlation map, with tensors in PyTorch's default layout.
    With batch norm in eval mode, the outputs equal those of E3SN. In training, the batch-norm
    statistics come from whole maps instead of windows.
    """

    def correlate(self, template: Template, search: Search, cells: Cells) -> Tensor:
        """Compute whole maps and take the chosen cells from them: (N, C)."""
        row, column, first = cells.row, cells.column, 4 - search.margin // 8
        chosen = []
        for level, whole in zip(
            self.mask.names, self.mask.whole_maps(template, search), strict=True
        ):
            step = 2 if level == 2 else 1
            chosen.append(whole[cells.image, :, step * (row + first), step * (column + first)])
        return self.mask.fusion(chosen)

    def segment(self, template: Template, search: Search, cells: Cells) -> Tensor:
        """Refine as E3SN does, on contiguous tensors."""
        handle = self.refine.register_forward_pre_hook(
            lambda _, inputs: tuple(each.contiguous() for each in inputs)
        )
        try:
            return super().segment(template, search, cells)
        finally:
            handle.remove()

    def segment_base(self, template: Template, search: Search, cells: Cells) -> Tensor:
        """Compute the 63 x 63 head on whole maps, as SiamMask's first stage does; conv4 only."""
        if self.base_head is None or self.mask.names != (4,):
            raise InputError(
                "the base mask head on whole maps needs model.base_head=true and model.levels=[4]"
            )
        masks = self.base_head(self.mask.fusion(self.mask.whole_maps(template, search)))
        chosen = masks[cells.image, :, cells.row, cells.column]
        return chosen.unflatten(1, (BASE_MASK, BASE_MASK)).float()

    def _features(self, image: Tensor) -> Any:
        return self.backbone(((image.float() - self.mean) / self.std).contiguous())


def bench_training(
    profile: Profile, sources: list[Source], batch_size: int = 8, steps: int = 4
) -> pd.DataFrame:
    """Time steps of this loop, of a plain version of it, and of SiamMask's first stage.

    Plain means: fp32, contiguous, every position, 3x3 shortcuts in full. The contenders take turns
    and compute the same pairs (SiamMask draws its own samples from them). The fastest of `steps`
    counts, because other programs disturb it least.

    Args:
        profile: of the variant ``e3sn``.
        sources: where pairs come from; without any, steps are computed on noise.
        batch_size: pairs per step.
        steps: timed steps of each contender and phase, after one that warms up.

    Returns:
        One row per phase and contender: phase, contender, pairs_per_second, ratio (this loop's
        rate over the contender's), seconds of forward, backward, update, and data (seconds to
        prepare the batch in one process; nan for noise).
    """
    entries = contenders(profile)
    batches = {
        name: first_batch(each.profile, each.stage, sources, batch_size)
        for name, each in entries.items()
    }
    rows = []
    for trained in (False, True):
        for stepper in entries.values():
            stepper.train_backbone(trained)
        calls = {name: partial(each.step, batches[name][0]) for name, each in entries.items()}
        times = take_turns(calls, steps)
        best = {name: min(taken, key=lambda each: each.total) for name, taken in times.items()}
        layers = " ".join(profile.train.train_layers)
        rows += [
            {
                "phase": f"{layers} trained" if trained else "backbone frozen",
                "contender": name,
                "pairs_per_second": batch_size / time.total,
                "ratio": time.total / best[OURS].total,
                "data": batches[name][1] * batch_size,
                **time._asdict(),
            }
            for name, time in best.items()
        ]
    return pd.DataFrame(rows)


def contenders(profile: Profile) -> dict[str, Stepper]:
    """Return what is timed, by name: this loop, a plain one, and SiamMask's first stage."""
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
        stages={
            name: dataclasses.replace(stage, sets={}) for name, stage in baseline.stages.items()
        },
    )
    plain, two_stage = PlainE3SN(profile.model), PlainE3SN(baseline.model)
    plain.load_state_dict(ours.state_dict())
    two_stage.backbone.load_state_dict(ours.backbone.state_dict())
    return {
        OURS: Stepper(profile, _first_stage(profile), ours),
        PLAIN: _PlainStepper(
            dataclasses.replace(profile, train=train), _first_stage(profile), plain
        ),
        TWO_STAGE: _PlainStepper(baseline, _first_stage(baseline), two_stage),
    }


class _PlainStepper(Stepper):
    def train_backbone(self, trained: bool) -> None:
        super().train_backbone(trained)
        for shortcut in self.model.backbone.shortcuts:
            shortcut.centre_only = False


def _first_stage(profile: Profile) -> StageConfig:
    return next(iter(profile.stages.values()))


def precision_profile(profile: Profile, precision: Precision, steps: int, batch: int) -> Profile:
    """Return settings of a short run in one precision, with about fifty rows of log.

    Seed and schedule stay those of `profile`; `batch` is the pairs per step.
    """
    train = dataclasses.replace(
        profile.train,
        precision=precision,
        pairs=steps * batch,
        batch_size=batch,
        log_every=max(steps // 50, 1),
    )
    return dataclasses.replace(profile, train=train)


def expected_seconds(profile: Profile, sources: list[Source]) -> float:
    """Return how long a run will take here, without reading data, from a step of each phase."""
    seconds, model = 0.0, build_model(profile.model)
    initialise_backbone(model, profile)
    for phase in phases(profile):
        stepper = Stepper(profile, phase.stage.config, model)
        stepper.train_backbone(phase.backbone)
        batch, _ = first_batch(profile, phase.stage.config, sources, profile.train.batch_size)
        seconds += phase.steps * min(stepper.step(batch).total for _ in range(2))
    return seconds


def train_precisions(
    profiles: Mapping[str, Profile], sources: list[Source], folder: Path
) -> dict[str, pd.DataFrame]:
    """Train each profile in a folder with its name, or continue it; return the logs by name.

    Raises:
        InputError: as `Trainer.run`.
    """
    for name, profile in profiles.items():
        Trainer(profile, sources, folder / name, data_root=Path(profile.data.root)).run()
    return {name: pd.read_csv(folder / name / "log.csv") for name in profiles}


def precision_difference(
    reference: pd.DataFrame, other: pd.DataFrame, column: str = "loss"
) -> tuple[float, float]:
    """Compare two logs of the same pairs over the second half of the run.

    Returns:
        The mean difference and twice its standard error, both as shares of the reference's mean.
        The error treats the rows as independent, which is only roughly true.
    """
    both = reference[["step", column]].merge(
        other[["step", column]], on="step", suffixes=("", "_other")
    )
    both = both.dropna()
    half = both[both["step"] > both["step"].max() / 2]
    difference = (half[f"{column}_other"] - half[column]) / half[column].mean()
    return float(difference.mean()), float(2 * difference.std() / np.sqrt(len(difference)))
