"""How fast the training loop is against a plain one; whether half precision learns the same."""

from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
from torch import Tensor

from e3sn_lib.config import ModelConfig, Profile
from e3sn_lib.data.pairs import Source
from e3sn_lib.model.device import machine
from e3sn_lib.model.network import build_model
from e3sn_lib.profiles.loading import load_profile
from e3sn_study.bench.steps import Stepper, first_batch, initialise_backbone, take_turns
from e3sn_study.bench.variant_costs import WholeMaps

OURS, PLAIN, TWO_STAGE = "this loop", "plain", "plain SiamMask"


class PlainE3SN(WholeMaps):
    """The same network, computed in the plain way: also with tensors in PyTorch's default layout,
    and 3x3 shortcuts in full."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.backbone.skip_zero_taps = lambda: None  # type: ignore[method-assign]
        self.refine.register_forward_pre_hook(
            lambda _, inputs: tuple(each.contiguous() for each in inputs)
        )

    def _features(self, image: Tensor) -> Any:
        return self.backbone(((image.float() - self.mean) / self.std).contiguous())


def bench_training(
    profile: Profile, sources: list[Source], batch_size: int = 8, steps: int = 4
) -> pd.DataFrame:
    """Time steps of this loop, of a plain version of it, and of SiamMask's first stage.

    Plain means: fp32, contiguous, every position, 3x3 shortcuts in full. The contenders take turns
    and compute the same pairs (SiamMask draws its own samples from them). The fastest of `steps`
    counts, because other programs disturb it least. Without `sources`, steps are computed on noise.
    The profile is of the variant ``e3sn``.

    Return one row per phase and contender: phase, contender, pairs_per_second, ratio (this loop's
    rate over the contender's), seconds of forward, backward, update, and data (seconds to prepare
    the batch in one process; nan for noise), batch, machine.
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
        best = {name: min(times, key=sum) for name, times in take_turns(calls, steps).items()}
        layers = " ".join(profile.train.train_layers)
        rows += [
            {
                "phase": f"{layers} trained" if trained else "backbone frozen",
                "contender": name,
                "pairs_per_second": batch_size / sum(time),
                "ratio": sum(time) / sum(best[OURS]),
                "data": batches[name][1] * batch_size,
                **time._asdict(),
            }
            for name, time in best.items()
        ]
    return pd.DataFrame(rows).assign(batch=batch_size, machine=machine()["machine"])


def contenders(profile: Profile) -> dict[str, Stepper]:
    """Return what is timed, by name: this loop, a plain one, and SiamMask's first stage."""
    ours = build_model(profile.model)
    initialise_backbone(ours, profile)
    train = replace(profile.train, precision="fp32", train_shortcuts=True)
    siammask = load_profile("paper", "siammask")
    same = {name: getattr(profile.model, name) for name in ("backbone", "block_layout", "channels")}
    siammask = replace(
        siammask,
        model=replace(siammask.model, **same),
        data=profile.data,
        augment=profile.augment,
        train=train,
        stages={name: replace(stage, sets={}) for name, stage in siammask.stages.items()},
    )
    plain, two_stage = PlainE3SN(profile.model), PlainE3SN(siammask.model)
    plain.load_state_dict(ours.state_dict())
    two_stage.backbone.load_state_dict(ours.backbone.state_dict())
    return {
        OURS: Stepper(profile, model=ours),
        PLAIN: Stepper(replace(profile, train=train), model=plain),
        TWO_STAGE: Stepper(siammask, model=two_stage),
    }


def precision_profiles(profile: Profile, steps: int, batch: int) -> dict[str, Profile]:
    """Return settings of short runs in fp32 and bf16, of `batch` pairs a step, with about fifty
    rows of log each; seed and schedule stay those of `profile`."""
    pairs, every = steps * batch, max(steps // 50, 1)
    train = replace(profile.train, pairs=pairs, batch_size=batch, log_every=every)
    each = {name: replace(train, precision=name) for name in ("fp32", "bf16")}
    return {name: replace(profile, train=own) for name, own in each.items()}


def precision_difference(
    reference: pd.DataFrame, other: pd.DataFrame, column: str = "loss"
) -> tuple[float, float]:
    """Return the mean difference of two logs of the same pairs, over the second half of the run,
    and twice its standard error, both as shares of the reference's mean. The error treats the rows
    as independent, which is only roughly true."""
    both = reference.merge(other, on="step", suffixes=("", "_other"))
    both = both.dropna(subset=[column, f"{column}_other"])
    half = both[both["step"] > both["step"].max() / 2]
    difference = (half[f"{column}_other"] - half[column]) / half[column].mean()
    return float(difference.mean()), float(2 * difference.sem())
