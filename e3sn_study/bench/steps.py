"""Single training steps, apart from a run: the same computation as the loop's, to be timed and counted."""

from __future__ import annotations

import dataclasses
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import nn

from e3sn_lib.config import Profile, StageConfig
from e3sn_lib.data.pairs import Batch, PairDataset, Source, collate
from e3sn_lib.errors import InputError
from e3sn_lib.losses import compute_losses
from e3sn_lib.model.device import autocast, best_device, precision_of
from e3sn_lib.model.network import E3SN, build_model, mask_cells
from e3sn_lib.model.weights import load_backbone
from e3sn_lib.model.windows import Cells
from e3sn_lib.training.schedule import build_optimiser, parameter_groups, set_trainable

RATE = 1e-8
"""Learning rate of single steps: all is computed, but the next one finds practically the same network."""


class StepTime(NamedTuple):
    """Seconds of one step's parts."""

    forward: float
    backward: float
    update: float

    @property
    def total(self) -> float:
        return sum(self)


class Stepper:
    """A network with its optimiser, to train single steps of one stage.

    Args:
        profile: losses, optimiser and precision.
        stage: what is trained.
        model: the network; None: the profile's own with random weights.
    """

    def __init__(self, profile: Profile, stage: StageConfig, model: E3SN | None = None) -> None:
        self.profile, self.stage = profile, stage
        self.device = best_device()
        self.dtype = precision_of(profile.train.precision, self.device)
        self.model = (model or build_model(profile.model)).to(self.device)
        self.optimiser = build_optimiser(parameter_groups(self.model, profile.train, stage.train_location), profile.train)
        for group in self.optimiser.param_groups:
            group["lr"] = RATE
        self.train_backbone(False)

    def train_backbone(self, trained: bool) -> None:
        """Whether the layers of ``train.train_layers`` are trained in the next steps."""
        set_trainable(self.model, self.optimiser.param_groups, self.profile.train, train_backbone=trained)

    def step(self, batch: Batch) -> StepTime:
        """Forward, backward, clip and update, as the training loop does."""
        batch = batch.to(self.device)
        marks = [self._now()]
        with autocast(self.dtype, self.device):
            loss, _ = compute_losses(self.model, batch, self.profile, self.stage)
        marks.append(self._now())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        marks.append(self._now())
        for group in self.optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], self.profile.train.clip)
        self.optimiser.step()
        marks.append(self._now())
        return StepTime(*(after - before for before, after in pairwise(marks)))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def initialise_backbone(model: E3SN, profile: Profile) -> str:
    """Backbone weights as a run begins with, without a download; returns what is lacking, or nothing.

    Where they are lacking the weights stay random, but shortcuts use only their kernels' centres, as with ImageNet weights: what
    a step costs depends on it.
    """
    source, lacking = profile.train.weights, ""
    if source == "torchvision":
        url = torchvision.models.get_model_weights(profile.model.backbone)["IMAGENET1K_V1"].url
        if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).is_file():
            lacking = f"ImageNet weights of {profile.model.backbone} are not here yet; the run downloads them from {url}"
    if not lacking:
        try:
            load_backbone(model.backbone, source, profile.model, Path(profile.data.root))
        except InputError as error:
            lacking = str(error)
    if lacking:
        for shortcut in model.backbone.shortcuts:
            centre = torch.zeros_like(shortcut.weight)
            centre[:, :, 1, 1] = shortcut.weight.detach()[:, :, 1, 1]
            shortcut.weight.data = centre
    return lacking


def windows_per_image(profile: Profile, stage: StageConfig) -> int:
    """Candidate windows that an image teaches at most."""
    sampler = profile.sampler
    count = sampler.samples_per_image if sampler.policy == "supervised" else sampler.anchor_positives
    return min(count, mask_cells(stage.search_size) ** 2)


def random_batch(count: int, batch_size: int, size: int) -> Batch:
    """Noise with the shapes of a training batch; memory and time do not depend on what is seen."""
    grid = mask_cells(size)
    image = torch.arange(batch_size).repeat_interleave(count)
    cells = torch.stack([torch.randperm(grid**2)[:count] for _ in range(batch_size)]).flatten()
    return Batch(
        template=torch.randint(256, (batch_size, 3, 127, 127), dtype=torch.uint8),
        search=torch.randint(256, (batch_size, 3, size, size), dtype=torch.uint8),
        mask=torch.ones(batch_size, size, size, dtype=torch.int8),
        anchor_labels=torch.randint(-1, 2, (batch_size, 5, grid, grid), dtype=torch.int8),
        offsets=torch.zeros(batch_size, 4, 5, grid, grid),
        cells=Cells(image, cells // grid, cells % grid),
        sample_labels=torch.ones(len(cells), dtype=torch.int8),
        problems=(),
    )


def noise(profile: Profile, stage: StageConfig, size: int) -> Batch:
    """A batch without data: random images, every window taught."""
    return random_batch(windows_per_image(profile, stage), size, stage.search_size)


def first_batch(profile: Profile, stage: StageConfig, sources: list[Source], size: int) -> tuple[Batch, float]:
    """The stage's first pairs and the seconds that preparing one took; noise and nan where there are no data for it.

    Raises:
        InputError: the data are there but cannot be used.
    """
    weighed = [
        (tracks, dataclasses.replace(config, weight=stage.sets.get(config.kind, config.weight))) for tracks, config in sources
    ]
    if not any(config.weight > 0 for _, config in weighed):
        return noise(profile, stage, size), float("nan")
    dataset = PairDataset(sources, profile, stage, size)
    dataset[0]  # loads what only the first pair loads
    begun = time.perf_counter()
    pairs = [dataset[index] for index in range(size)]
    return collate(pairs), (time.perf_counter() - begun) / size
