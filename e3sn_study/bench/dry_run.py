"""A training run that is checked, measured for a step and laid out, but not begun; nothing is written."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from e3sn_lib.config import DataConfig, Profile
from e3sn_lib.data.sources import TrainSets, open_train_sets, verify
from e3sn_lib.errors import InputError
from e3sn_lib.model.device import peak_memory_bytes
from e3sn_lib.model.network import build_model, count_parameters
from e3sn_lib.training.state import CHECKPOINT, FINAL
from e3sn_study.bench.planning import GPUS, PhaseCost, StepCost, count_step, gpu_estimate, phases, state_bytes, step_seconds
from e3sn_study.bench.sampling_cost import LARGEST_SHARE, free_memory_mb
from e3sn_study.bench.steps import Stepper, first_batch, initialise_backbone
from e3sn_study.records.entries import files_of, run_folder

SMALL = 8
"""Pairs of a step up to which the faster of two is taken."""


@dataclass(frozen=True)
class DryRun:
    """What a run would be."""

    sets: pd.DataFrame
    """One row per training set: name, path, state, tracks, images, with_masks, left_out."""
    problems: list[str]
    """What is absent or broken, a line each: while there are any, the run would not be the profile's."""
    notes: list[str]
    phases: pd.DataFrame
    """One row per phase: what is trained, steps, rates, cost of a step, time on this machine."""
    gpus: pd.DataFrame
    """Estimates, not measurements: hours and GB on common GPUs."""
    files: list[str]
    """What would be written where."""


def dry_run(profile: Profile, runs: Path) -> DryRun:
    """Check data, weights and memory of a run that would be kept in `runs`, and measure its steps.

    Raises:
        InputError: the settings cannot be trained.
    """
    sets, opened, problems = check_data(profile.data)
    torch.manual_seed(profile.seed)
    model = build_model(profile.model)
    lacking = initialise_backbone(model, profile)
    notes = [f"network: {count_parameters(model):,} parameters"]
    if lacking:
        (notes if profile.train.weights == "torchvision" else problems).append(lacking)
    rows, costs, batch, held = [], [], profile.train.batch_size, 0
    for phase in phases(profile):
        stepper = Stepper(profile, phase.stage.config, model)
        stepper.train_backbone(phase.backbone)
        here = count_step(stepper, stepper.dtype)
        half = here if stepper.dtype.itemsize == 2 else count_step(stepper, torch.bfloat16)
        held = max(held, state_bytes(stepper))
        size = _largest_that_fits(batch, held, here)
        if size < batch:
            notes.append(
                f"memory: {batch} pairs need about {(held + here.memory(batch)) / 1e9:.2g} GB, too much for this machine now; "
                f"measured with {size}"
            )
        drawn, preparing = first_batch(profile, phase.stage.config, opened.opened, size)
        computing = min(stepper.step(drawn).total for _ in range(2 if size <= SMALL else 1)) / size * batch
        seconds = step_seconds(computing, preparing * batch, profile.data.workers)
        costs.append(PhaseCost(phase.steps * batch, half, held))
        first, last = phase.rates(profile)
        rows.append(
            {
                "stage": phase.stage.name,
                "backbone": " ".join(profile.train.train_layers) if phase.backbone else "frozen",
                "from step": phase.stage.first_step + phase.first_step,
                "steps": phase.steps,
                "pairs": phase.steps * batch,
                "first rate": first,
                "last rate": last,
                "trained": sum(each.numel() for each in model.parameters() if each.requires_grad),
                "GFLOP/pair": here.flops / 1e9,
                "GB of tensors": (held + here.memory(batch)) / 1e9,
                "timed": f"{size} pairs" if opened.opened and preparing == preparing else f"{size} of noise",
                "s/step": computing,
                "ms/pair drawn": preparing * 1e3,
                "hours": seconds * phase.steps / 3600,
            }
        )
    table = pd.DataFrame(rows)
    notes.append(
        f"this machine: {table['hours'].sum():,.1f} hours in {str(stepper.dtype).removeprefix('torch.')} on {stepper.device.type}, "
        f"{torch.get_num_threads()} threads, pairs prepared by {profile.data.workers or 'the same'} process(es); memory: peak "
        f"{peak_memory_bytes() / 1e9:.2g} GB in the steps timed here, {free_memory_mb() / 1e3:.3g} GB still free"
    )
    folder = run_folder(runs, profile, opened, files_of(profile, opened))
    return DryRun(sets, problems, notes, table, _gpu_table(costs, batch), _files(folder, profile, count_parameters(model), held))


def check_data(data: DataConfig) -> tuple[pd.DataFrame, TrainSets, list[str]]:
    """Counts of each training set, those that are there, and a line for each that is not."""
    data = dataclasses.replace(data, evaluation=())
    try:
        table = verify(data)
    except InputError as error:
        return pd.DataFrame(), TrainSets(), [str(error)]
    problems = [
        f"training set {row.name} is {row.state}: {row.left_out}; {row.remedy}"
        for row in table[table["state"] != "present"].itertuples(index=False)
        if (row.kind, row.state) != ("synthetic", "absent")  # a run makes it
    ]
    there = tuple(each for each, tracks in zip(data.train, table["tracks"], strict=True) if tracks)
    opened = open_train_sets(dataclasses.replace(data, train=there)) if there else TrainSets()
    return table[["name", "path", "state", "tracks", "images", "with_masks", "left_out"]], opened, problems


def _largest_that_fits(batch: int, held: int, cost: StepCost) -> int:
    free = LARGEST_SHARE * free_memory_mb() * 2**20
    while batch > 1 and held + cost.memory(batch) > free:
        batch //= 2
    return batch


def _gpu_table(costs: list[PhaseCost], batch: int) -> pd.DataFrame:
    rows = []
    for name, gpu in GPUS.items():
        hours, memory = gpu_estimate(gpu, costs, batch)
        rate = sum(each.pairs for each in costs) / hours / 3600
        rows.append({"GPU": name, "hours": hours, "pairs/s": rate, "GB": memory, "of": gpu.memory, "peak figures": gpu.source})
    return pd.DataFrame(rows)


def _files(folder: Path, profile: Profile, parameters: int, held: int) -> list[str]:
    """What the run would write, and whether it has begun."""
    begun = "is finished" if (folder / FINAL).is_file() else "would go on" if (folder / CHECKPOINT).is_file() else "would begin"
    single, half = 4 * parameters, 2 * parameters
    sizes = {CHECKPOINT: held + (single if profile.train.average else 0), FINAL: half}
    large = [f"{name} ({size / 1e6:.0f} MB)" for name, size in sizes.items()]
    return [f"{folder}: the run {begun}; it writes config.yaml, env.json, log.csv, summary.json, {', '.join(large)}"]
