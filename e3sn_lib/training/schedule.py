"""The course of a run: its stages, the learning rate, what is trained when, and the average."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from e3sn_lib.config import Profile, StageConfig, TrainConfig
from e3sn_lib.errors import InputError
from e3sn_lib.model.network import E3SN

WARMUP_START = 0.2
"""Share of the first rate from which a warm-up by epochs starts. It rises by a constant factor per
epoch, and the epoch after it has the first rate (SiamMask)."""

Groups = list[dict[str, Any]]
"""Groups of parameters, as torch's optimisers take them."""


class StagePlan(NamedTuple):
    """The steps of one stage within its run."""

    name: str
    config: StageConfig
    first_step: int
    steps: int


def plan(profile: Profile) -> list[StagePlan]:
    """Return the stages of a run; raises InputError if one has fewer pairs than a step."""
    stages, first = [], 0
    for name, stage in profile.stages.items():
        pairs, batch = profile.train.pairs * stage.share, profile.train.batch_size
        if pairs < batch:
            fault = f"stage {name} has {pairs:g} pairs, fewer than a step of {batch}"
            raise InputError(f"{fault}; raise train.pairs or lower train.batch_size")
        steps = round(pairs / batch)
        stages.append(StagePlan(name, stage, first, steps))
        first += steps
    return stages


def learning_rate(step: int, steps: int, config: TrainConfig, stage: StageConfig) -> float:
    """Return the learning rate of a step, before the factors of the parameter groups.

    After a warm-up it falls from the first to the last rate by a constant factor (paper 4.1): per
    epoch, or per step with ``epochs: 0``. The step is one of the stage's `steps`, from 0. A stage
    may have rates and a warm-up of its own.
    """
    first, last = stage.lr or config.lr
    share = config.warmup if stage.warmup is None else stage.warmup
    length = config.epochs or steps
    place, warmup = step * length // steps, round(share * length)
    if place < warmup and config.epochs:
        return float(first * WARMUP_START ** (1 - place / warmup))
    if place < warmup:
        return float(first * ((place + 1) / (warmup + 1)))
    return float(first * (last / first) ** ((place - warmup) / max(length - 1 - warmup, 1)))


def parameter_groups(model: E3SN, config: TrainConfig, train_location: bool) -> Groups:
    """Return the optimiser's groups of parameters, of which none is empty.

    They are ``backbone``, ``location`` (neck and RPN), ``mask``, and ``fusion``, which has no
    weight decay. Each has the ``scale`` by which the learning rate is multiplied.
    """
    layers = [model.backbone.stage(name) for name in config.train_layers]
    backbone = [parameter for layer in layers for parameter in layer.parameters()]
    if not config.train_shortcuts:
        fixed = {id(shortcut.weight) for shortcut in model.backbone.shortcuts}
        backbone = [parameter for parameter in backbone if id(parameter) not in fixed]
    location = [*model.neck.parameters(), *model.rpn.parameters()]
    masks = [model.mask.adjust, model.mask.levels, model.refine, model.base_head]
    mask = [parameter for module in masks if module for parameter in module.parameters()]
    fusion = list(model.mask.fusion.parameters())
    groups: Groups = [
        {"name": "backbone", "params": backbone, "scale": config.backbone_lr},
        {"name": "location", "params": location, "scale": 1.0},
        {"name": "mask", "params": mask, "scale": config.mask_lr},
        {"name": "fusion", "params": fusion, "scale": config.mask_lr, "weight_decay": 0.0},
    ]
    if not train_location:
        del groups[:2]
    return [group for group in groups if group["params"]]


def build_optimiser(groups: Groups, config: TrainConfig) -> torch.optim.Optimizer:
    """Return SGD or AdamW for groups of `parameter_groups`."""
    rate, decay = config.lr[0], config.weight_decay
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, weight_decay=decay)
    return torch.optim.AdamW(groups, lr=rate, weight_decay=decay)


def set_trainable(model: E3SN, groups: Groups, config: TrainConfig, train_backbone: bool) -> None:
    """Freeze the parameters in none of the `groups`, and the group ``backbone`` unless
    `train_backbone`. Frozen parts keep their batch-norm statistics, and so does the backbone,
    except with ``weights: none``."""
    model.eval()
    model.requires_grad_(False)
    for group in groups:
        if group["name"] != "backbone" or train_backbone:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
    for shortcut in model.backbone.shortcuts:
        shortcut.centre_only = False
    if not any(shortcut.weight.requires_grad for shortcut in model.backbone.shortcuts):
        model.backbone.skip_zero_taps()

    names = {group["name"] for group in groups}
    trained: list[nn.Module | None] = [model.mask, model.refine, model.base_head]
    if "location" in names:
        trained += [model.neck, model.rpn]
    if config.weights == "none" and "backbone" in names:
        trained.append(model.backbone)
    for module in filter(None, trained):
        module.train()


def warmed_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return the update of an exponential moving average, for torch's `AveragedModel`.

    The decay grows with the steps up to `decay`. With a fixed one, the untrained weights of the
    first step would be a large part of the average of a short run or stage.
    """

    def update(averages: Any, currents: Any, steps: Tensor) -> None:
        warmed = (1 + float(steps)) / (10 + float(steps))
        get_ema_multi_avg_fn(min(decay, warmed))(averages, currents, steps)  # type: ignore[no-untyped-call]

    return update
