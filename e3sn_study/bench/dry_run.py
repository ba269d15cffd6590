"""Check and measure a training run without starting it. Only indices of large sets are written."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from e3sn_lib.config import DataConfig, Profile
from e3sn_lib.data.pairs import Source
from e3sn_lib.data.sources import TrainSets, open_train_sets, verify
from e3sn_lib.errors import InputError
from e3sn_lib.model.device import peak_memory_bytes
from e3sn_lib.model.network import build_model, count_parameters
from e3sn_lib.training.schedule import learning_rate
from e3sn_lib.training.state import CHECKPOINT, FINAL
from e3sn_study.bench.sampling_cost import MEMORY_SHARE, free_memory_mib
from e3sn_study.bench.steps import Phase, Stepper, first_batch, initialise_backbone, noise, phases
from e3sn_study.records.entries import files_of, run_folder

SMALL = 8
"""Up to this many pairs a step is timed twice, and the faster one counts."""


class DryRun(NamedTuple):
    """What is known about a run before it starts."""

    sets: pd.DataFrame
    """One row per training set: name, path, state, tracks, images, with_masks, left_out."""
    phases: pd.DataFrame
    """One row per phase: what is trained, steps, rates, memory, time on this machine."""
    notes: list[str]
    problems: list[str]
    """One line for each thing that is missing or broken. The run needs all of them."""


def dry_run(profile: Profile, runs: Path) -> DryRun:
    """Check data, weights and memory of a run in the folder `runs`, and measure its steps; raises
    InputError if the settings cannot be trained."""
    sets, opened, problems = check_data(profile.data)
    if profile.train.batch_size % profile.train.accumulate:
        problems.append("train.batch_size must be a multiple of train.accumulate")
    torch.manual_seed(profile.seed)
    model = build_model(profile.model)
    notes = [f"network: {count_parameters(model):,} parameters"]
    missing = initialise_backbone(model, profile)
    if missing and not profile.train.init_weights:
        (notes if profile.train.weights == "torchvision" else problems).append(missing)
    rows = []
    for phase in phases(profile):
        stepper = Stepper(profile, phase.stage.config, model)
        stepper.train_backbone(phase.backbone)
        rows.append(_row(stepper, phase, opened.opened))
    table = pd.DataFrame(rows)
    dtype, device = str(stepper.dtype).removeprefix("torch."), stepper.device.type
    workers = profile.data.workers
    by = f"{workers} other process{'es' * (workers > 1)}" if workers else "the training process"
    notes += [
        f"this machine: {table['hours'].sum():,.1f} hours in {dtype} on {device}, "
        f"{torch.get_num_threads()} threads; pairs prepared by {by}",
        f"memory: the steps timed here used at most {peak_memory_bytes() / 1e9:.2g} GB, "
        f"{free_memory_mib() * 2**20 / 1e9:.3g} GB are still free",
    ]
    if device != "cuda":
        notes.append("no GPU was used; with a GPU, run the same command there")
    folder, state = run_folder(runs, profile, opened, files_of(profile, opened)), "would begin"
    if (folder / FINAL).is_file():
        state = "is finished"
    elif (folder / CHECKPOINT).is_file():
        state = "would go on"
    return DryRun(sets, table, [*notes, f"{folder}: the run {state}"], problems)


def check_data(data: DataConfig) -> tuple[pd.DataFrame, TrainSets, list[str]]:
    """Return a table of the training sets, those that could be opened, and a line for each that
    could not."""
    try:
        table = verify(dataclasses.replace(data, evaluation=()))
    except InputError as error:
        return pd.DataFrame(), TrainSets(), [str(error)]
    problems = [
        f"training set {row.kind} ({row.name}) is {row.state}: {row.left_out}; {row.remedy}"
        for row in table[table["state"] != "present"].itertuples(index=False)
        if (row.kind, row.state) != ("synthetic", "absent")  # the run makes this set itself
    ]
    usable = table["tracks"] > 0
    there = tuple(each for each, use in zip(data.train, usable, strict=True) if use)
    opened = open_train_sets(dataclasses.replace(data, train=there)) if there else TrainSets()
    shown = ["name", "path", "state", "tracks", "images", "with_masks", "left_out"]
    return table[shown], opened, problems


def step_memory(stepper: Stepper) -> tuple[int, int]:
    """Return the bytes that a step holds: those of weights, gradients and the optimiser's state;
    and for each pair, those that PyTorch keeps for the backward pass. They are counted with 2 and
    with 4 pairs of random images. Short-lived results of single operations come on top."""
    batches = [noise(stepper.profile, stepper.stage, size) for size in (2, 4)]
    less, more = (saved_bytes(partial(stepper.step, batch)) for batch in batches)
    return state_bytes(stepper), (more - less) // 2


def saved_bytes(compute: Callable[[], object]) -> int:
    """Return the bytes of all tensors that PyTorch keeps for gradients while `compute` runs."""
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()  # views share it, so it counts once
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        compute()
    return sum(found.values())


def state_bytes(stepper: Stepper) -> int:
    """Return the bytes of weights, batch-norm statistics, gradients and the optimiser's state."""
    gradients = [each.grad for each in stepper.model.parameters()]
    state = [stepper.model.state_dict(), [*stepper.optimiser.state.values()], gradients]
    return sum(each.nbytes for each in tree_leaves(state) if isinstance(each, Tensor))


def step_seconds(computing: float, preparing: float, workers: int) -> float:
    """Return the seconds of a step and of preparing its pairs in one process (nan counts as 0).

    `workers` prepare pairs during the step. Without any, the pairs are prepared before it.
    """
    if math.isnan(preparing):
        return computing
    return max(computing, preparing / workers) if workers else computing + preparing


def _row(stepper: Stepper, phase: Phase, sources: list[Source]) -> dict[str, object]:
    """Describe a phase. A step is timed with as many pairs as fit, and scaled to the batch."""
    profile, train, stage = stepper.profile, stepper.profile.train, phase.stage
    ends = (phase.first_step, phase.first_step + phase.steps - 1)
    first, last = (learning_rate(step, stage.steps, train, stage.config) for step in ends)
    size = batch = train.batch_size
    fixed, per_pair = step_memory(stepper)
    free = MEMORY_SHARE * free_memory_mib() * 2**20
    while size > 1 and fixed + per_pair * size > free:
        size //= 2
    drawn, preparing = first_batch(profile, stage.config, sources, size)
    times = [sum(stepper.step(drawn)) for _ in range(2 if size <= SMALL else 1)]
    computing = min(times) / size * batch
    seconds = step_seconds(computing, preparing * batch, profile.data.workers)
    return {
        "stage": stage.name,
        "backbone": " ".join(train.train_layers) if phase.backbone else "frozen",
        "from step": stage.first_step + phase.first_step,
        "steps": phase.steps,
        "pairs": phase.steps * batch,
        "first rate": first,
        "last rate": last,
        "trained": sum(each.numel() for each in stepper.model.parameters() if each.requires_grad),
        "GB needed": (fixed + per_pair * batch / train.accumulate) / 1e9,
        "timed": f"{size} of noise" if math.isnan(preparing) else f"{size} pairs",
        "s/step": computing,
        "ms/pair drawn": preparing * 1e3,
        "hours": seconds * phase.steps / 3600,
    }
