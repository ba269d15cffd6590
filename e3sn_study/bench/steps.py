"""Single training steps outside a run: the training loop's computation, to be timed."""

import math
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

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
from e3sn_lib.training import schedule

K = TypeVar("K")
T = TypeVar("T")
RATE = 1e-8
"""Learning rate of single steps. Everything is computed, but the network hardly changes."""


def take_turns(entries: Mapping[K, Callable[[], T]], rounds: int) -> dict[K, list[T]]:
    """Call all entries one after another, once to warm up and then `rounds` times.

    The speed of a shared machine changes with time. Because the entries take turns, such changes
    meet all of them alike. Return by entry its results without the warm-up (only the warm-up's
    result if `rounds` is 0).
    """
    turns = [{name: call() for name, call in entries.items()} for _ in range(rounds + 1)]
    return {name: [turn[name] for turn in turns[1:] or turns] for name in entries}


class Phase(NamedTuple):
    """Steps of one stage that cost the same: the backbone is frozen, or its layers are trained."""

    stage: schedule.StagePlan
    backbone: bool
    """Whether the layers of ``train.train_layers`` are trained."""
    first_step: int
    """Counted within the stage."""
    steps: int


def phases(profile: Profile) -> list[Phase]:
    """Return the phases of a run, in order."""
    found = []
    for stage in schedule.plan(profile):
        border = stage.steps
        if stage.config.train_location and profile.train.train_layers:
            # the first step at which the loop's progress, step / steps, reaches the share
            border = math.ceil(round(profile.train.unfreeze_at * stage.steps, 6))
        found.append(Phase(stage, False, 0, border))
        found.append(Phase(stage, True, border, stage.steps - border))
    return [phase for phase in found if phase.steps]


class StepTime(NamedTuple):
    """Seconds of the parts of one step; their sum is the step."""

    forward: float
    backward: float
    update: float


class Stepper:
    """A network with its optimiser, for single steps of one stage.

    Without `stage` it is the profile's first; without `model`, a network with random weights.
    """

    def __init__(
        self, profile: Profile, stage: StageConfig | None = None, model: E3SN | None = None
    ) -> None:
        self.profile, self.stage = profile, stage or next(iter(profile.stages.values()))
        self.device = best_device()
        self.dtype = precision_of(profile.train.precision, self.device)
        self.model = (model or build_model(profile.model)).to(self.device)
        groups = schedule.parameter_groups(self.model, profile.train, self.stage.train_location)
        self.optimiser = schedule.build_optimiser(groups, profile.train)
        for group in self.optimiser.param_groups:
            group["lr"] = RATE
        self.train_backbone(False)

    def train_backbone(self, trained: bool) -> None:
        """Train the layers of ``train.train_layers`` in the next steps, or freeze them."""
        groups = self.optimiser.param_groups
        schedule.set_trainable(self.model, groups, self.profile.train, train_backbone=trained)

    def step(self, batch: Batch) -> StepTime:
        """Compute losses and gradients, clip and update, as the training loop does."""
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
    """Load the backbone weights that a run starts with, without a download; return "".

    If they are not on this machine, the weights stay random, and what is missing is returned in
    one line. The shortcuts then get kernels of which only the centre is not zero, as ImageNet
    weights have them: a step's cost depends on it.
    """
    source, name = profile.train.weights, profile.model.backbone
    try:
        if source == "torchvision":
            url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
            if not Path(torch.hub.get_dir(), "checkpoints", Path(url).name).is_file():
                what = f"ImageNet weights of {name} are not here"
                raise InputError(f"{what}; the run downloads them from {url}")
        load_backbone(model.backbone, source, Path(profile.data.root))
    except InputError as error:
        centre = torch.zeros(3, 3)
        centre[1, 1] = 1
        for shortcut in model.backbone.shortcuts:
            shortcut.weight.data *= centre
        return str(error)
    return ""


def noise(profile: Profile, stage: StageConfig, size: int, count: int | None = None) -> Batch:
    """Return a batch of `size` pairs of random images, in each of which `count` windows are taught.

    Without `count`, they are as many as the profile teaches at most. What the images show changes
    neither the memory nor the time of a step.
    """
    sampler, side, grid = profile.sampler, stage.search_size, mask_cells(stage.search_size)
    if count is None:
        supervised = sampler.policy == "supervised"
        most = sampler.samples_per_image if supervised else sampler.anchor_positives
        count = min(most, grid**2)
    image = torch.arange(size).repeat_interleave(count)
    cells = torch.stack([torch.randperm(grid**2)[:count] for _ in range(size)]).flatten()
    return Batch(
        template=torch.randint(256, (size, 3, 127, 127), dtype=torch.uint8),
        search=torch.randint(256, (size, 3, side, side), dtype=torch.uint8),
        mask=torch.ones(size, side, side, dtype=torch.int8),
        anchor_labels=torch.randint(-1, 2, (size, 5, grid, grid), dtype=torch.int8),
        offsets=torch.zeros(size, 4, 5, grid, grid),
        cells=Cells(image, cells // grid, cells % grid),
        sample_labels=torch.ones(len(cells), dtype=torch.int8),
        problems=(),
    )


def first_batch(
    profile: Profile, stage: StageConfig, sources: list[Source], size: int
) -> tuple[Batch, float]:
    """Return the first `size` pairs of a stage and the seconds to prepare one of them.

    Without data for the stage: noise and nan. Data that cannot be used raise InputError.
    """
    weights = [stage.sets.get(config.kind, config.weight) for _, config in sources]
    if not any(weight > 0 for weight in weights):
        return noise(profile, stage, size), float("nan")
    dataset = PairDataset(sources, profile, stage)
    dataset[0]  # loads what only the first pair loads
    begun = time.perf_counter()
    pairs = [dataset[index] for index in range(size)]
    return collate(pairs), (time.perf_counter() - begun) / size
