"""How a run proceeds: its stages and steps, the learning rate, and which parameters are trained when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from e3sn_lib.config import Profile, StageConfig, TrainConfig
from e3sn_lib.errors import InputError
from e3sn_lib.model.network import E3SN

WARMUP_START = 0.2
"""Of the first rate: where a warm-up by epochs begins; it rises by a constant factor and ends one step short (SiamMask)."""


@dataclass(frozen=True)
class StagePlan:
    """One stage's part of the run's steps."""

    name: str
    config: StageConfig
    first_step: int
    steps: int


def plan(profile: Profile) -> list[StagePlan]:
    """Return the stages of a run with their steps.

    Raises:
        InputError: a stage has fewer pairs than a step.
    """
    stages, first = [], 0
    for name, stage in profile.stages.items():
        pairs, batch = profile.train.pairs * stage.share, profile.train.batch_size
        if pairs < batch:
            raise InputError(
                f"stage {name} has {pairs:g} pairs, fewer than a step (train.batch_size {batch}); "
                "raise train.pairs or lower train.batch_size"
            )
        steps = round(pairs / batch)
        stages.append(StagePlan(name, stage, first, steps))
        first += steps
    return stages


def learning_rate(step: int, steps: int, config: TrainConfig, stage: StageConfig) -> float:
    """Logarithmic decay from the first to the last rate (paper 4.1), stepwise by epoch or, with ``epochs: 0``, continuous."""
    first, last = stage.lr or config.lr
    share = config.warmup if stage.warmup is None else stage.warmup
    length = config.epochs or steps
    place, warmup = step * length // steps, round(share * length)
    if place < warmup:
        rising = WARMUP_START ** (1 - place / warmup) if config.epochs else (place + 1) / (warmup + 1)
        return float(first * rising)
    return float(first * (last / first) ** ((place - warmup) / max(length - 1 - warmup, 1)))


def parameter_groups(model: E3SN, config: TrainConfig, train_location: bool) -> list[dict[str, Any]]:
    """Parameters by learning rate and name: backbone, location (neck and RPN), mask, and fusion (without weight decay)."""
    fixed = set() if config.train_shortcuts else {id(shortcut.weight) for shortcut in model.backbone.shortcuts}
    layers = [m for name in config.train_layers for m in model.backbone.stage(name)]
    backbone = [p for layer in layers for p in layer.parameters() if id(p) not in fixed]
    fusion = list(model.mask.fusion.parameters())
    mask_modules = [model.mask.adjust, model.mask.levels, model.refine, *([model.base_head] if model.base_head else [])]
    groups = [
        {"name": "backbone", "params": backbone if train_location else [], "scale": config.backbone_lr},
        {"name": "location", "params": [*model.neck.parameters(), *model.rpn.parameters()] if train_location else [], "scale": 1.0},
        {"name": "mask", "params": [p for m in mask_modules for p in m.parameters()], "scale": config.mask_lr},
        {"name": "fusion", "params": fusion, "scale": config.mask_lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimiser(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.lr[0], momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr[0], weight_decay=config.weight_decay)


def set_trainable(model: E3SN, groups: list[dict[str, Any]], config: TrainConfig, train_backbone: bool) -> None:
    """Freeze what this part of the schedule does not train; batch-norm of frozen parts keeps its statistics."""
    model.eval()
    model.requires_grad_(False)
    names = {group["name"] for group in groups}
    for group in groups:
        if group["name"] != "backbone" or train_backbone:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
    for shortcut in model.backbone.shortcuts:
        shortcut.centre_only = False
    if not any(shortcut.weight.requires_grad for shortcut in model.backbone.shortcuts):
        model.backbone.skip_zero_taps()
    model.mask.train()
    model.refine.train()
    if model.base_head is not None:
        model.base_head.train()
    if "location" in names:
        model.neck.train()
        model.rpn.train()
    if config.weights == "none" and "backbone" in names:
        model.backbone.train()
