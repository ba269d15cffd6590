"""The training loop: one or several stages, a schedule, checkpoints from which a run goes on exactly where it was."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from e3sn_lib.config import Profile, StageConfig, TrainSetConfig, profile_from_dict, training_settings
from e3sn_lib.data.pairs import Batch, PairDataset, collate
from e3sn_lib.data.types import TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path, write_csv, write_json, write_text
from e3sn_lib.interrupts import deferred_interrupts, ignore_interrupts
from e3sn_lib.losses import classification_loss, mask_iou, mask_loss, mask_windows, regression_loss
from e3sn_lib.model.network import E3SN, MARGIN, build_model
from e3sn_lib.model.weights import load_backbone, save_model
from e3sn_lib.provenance import environment, peak_memory_bytes, seed_everything
from e3sn_lib.schedule import (
    StagePlan,
    autocast,
    build_optimiser,
    learning_rate,
    parameter_groups,
    plan,
    precision_of,
    set_trainable,
)

Source = tuple[TrackSet, TrainSetConfig]
CHECKPOINT = "checkpoint.pt"
FINAL = "model.safetensors"
LARGEST_BAD_SHARE = 0.01
"""Pairs that needed a replacement for a damaged file; more stop the run."""
BAD_STEPS_IN_A_ROW = 5
"""Steps whose loss is not finite; so many in a row stop the run."""


def compute_losses(model: nn.Module, batch: Batch, profile: Profile, stage: StageConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of eq. 3 and its parts, with the mean mask IoU of the positive samples."""
    config = profile.loss
    output = model(batch.template, batch.search, batch.cells, stage.mask)
    pixel_labels = mask_windows(batch.mask.float(), batch.cells, MARGIN[stage.search_size])
    parts = {"mask": mask_loss(output.mask_logits, pixel_labels, batch.sample_labels, config.negatives)}
    total = config.mask_weight * parts["mask"]
    if stage.train_location:
        parts["cls"] = classification_loss(output.cls, batch.anchor_labels)
        parts["loc"] = regression_loss(output.loc, batch.offsets, batch.anchor_labels, config.loc, config.loc_beta)
        total = total + config.cls_weight * parts["cls"] + config.loc_weight * parts["loc"]
    with torch.no_grad():
        positive = batch.sample_labels > 0
        iou = mask_iou(output.mask_logits[positive], pixel_labels[positive])
        parts["mask_iou"] = iou.mean() if len(iou) else torch.tensor(math.nan)
    return total, parts


@dataclass
class RunState:
    """What a checkpoint holds beside weights and optimiser."""

    step: int = 0
    seconds: float = 0.0
    replaced: int = 0
    redrawn: int = 0
    skipped: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """One run in one folder: ``config.yaml``, ``env.json``, ``log.csv``, ``checkpoint.pt`` and at the end ``model.safetensors``.

    Args:
        profile: everything that determines the run.
        sources: the opened track sets.
        run_dir: the run's folder.
        data_root: where local backbone weights are looked for.
        device: where to compute; None: a GPU if there is one.
    """

    def __init__(
        self, profile: Profile, sources: list[Source], run_dir: Path, data_root: Path = Path(), device: torch.device | None = None
    ) -> None:
        self.profile, self.sources, self.run_dir = profile, sources, run_dir
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = precision_of(profile.train, self.device)
        self.stages = plan(profile)
        self.steps = sum(stage.steps for stage in self.stages)
        seed_everything(profile.seed)
        self.model = build_model(profile.model)
        load_backbone(self.model.backbone, profile.train.weights, profile.model, data_root)
        self.model.to(self.device)
        self.average = None
        if decay := profile.train.average:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.state = RunState()
        self.optimiser_state: dict[str, Any] | None = None

    def run(self, show: Callable[[str], None] = print) -> Path:
        """Train to the end, from the last checkpoint if there is one, and return the final model's path.

        Raises:
            InputError: too many damaged files, a loss that stays not finite, or a checkpoint of other settings.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, when the step under way is done and saved.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._resume()
        write_text(self.run_dir / "config.yaml", yaml.safe_dump(self.profile.to_dict(), sort_keys=False))
        write_json(self.run_dir / "env.json", environment())
        show(
            f"{self.run_dir.name}: {self.profile.train.pairs} pairs in {self.steps} steps of {self.profile.train.batch_size}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device.type}, from step {self.state.step}"
        )
        with deferred_interrupts() as interrupted:
            for stage in self.stages:
                if self.state.step < stage.first_step + stage.steps:
                    self._run_stage(stage, interrupted)
        path = self.run_dir / FINAL
        save_model(path, cast(E3SN, self.average.module) if self.average else self.model, self.profile)
        write_json(self.run_dir / "summary.json", self._summary())
        return path

    def _run_stage(self, stage: StagePlan, interrupted: Callable[[], bool]) -> None:
        config = self.profile.train
        groups = parameter_groups(self.model, config, stage.config.train_location)
        optimiser = build_optimiser(groups, config)
        if self.optimiser_state is not None:
            optimiser.load_state_dict(self.optimiser_state)
            self.optimiser_state = None
        done = self.state.step - stage.first_step
        log: dict[str, list[float]] = {}
        started, bad_steps, trained = time.perf_counter(), 0, None
        bar = tqdm(total=stage.steps, initial=done, desc=stage.name, mininterval=30, disable=self.steps < 200)
        for batch in self._batches(stage, done):
            begun = time.perf_counter()
            progress = (self.state.step - stage.first_step) / stage.steps
            if trained != (trained := progress >= config.unfreeze_at):
                set_trainable(self.model, optimiser.param_groups, config, train_backbone=trained)
            rate = learning_rate(self.state.step - stage.first_step, stage.steps, config, stage.config)
            parts = self._step(batch.to(self.device), optimiser, rate, stage.config)
            bad_steps = 0 if math.isfinite(parts["loss"]) else bad_steps + 1
            self._count(batch, bad_steps)
            log.setdefault("compute", []).append(time.perf_counter() - begun)
            for key, value in parts.items():
                log.setdefault(key, []).append(value)
            self.state.step += 1
            bar.update()
            last, stop = self.state.step == stage.first_step + stage.steps, interrupted()
            if self.state.step % config.log_every == 0 or last or stop:
                elapsed = time.perf_counter() - started
                self._log(stage.name, rate, log, elapsed)
                self.state.seconds += elapsed
                log, started = {}, time.perf_counter()
            if (self.state.step % config.checkpoint_every == 0 or stop) and not last:
                self._save(optimiser)
            if stop and not last:
                raise KeyboardInterrupt(
                    f"stopped after step {self.state.step} of {self.steps}; the same command goes on from there"
                )
        bar.close()
        self._save(None)

    def _step(self, batch: Batch, optimiser: torch.optim.Optimizer, rate: float, stage: StageConfig) -> dict[str, float]:
        for group in optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        with autocast(self.dtype, self.device):
            loss, parts = compute_losses(self.model, batch, self.profile, stage)
        values = {"loss": float(loss.detach()), **{key: float(value.detach()) for key, value in parts.items()}}
        if not math.isfinite(values["loss"]):
            return values
        optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(optimiser)
        for group in optimiser.param_groups:
            norm = nn.utils.clip_grad_norm_(group["params"], self.profile.train.clip)
            values[f"grad_{group['name']}"] = float(norm)
        self.scaler.step(optimiser)
        self.scaler.update()
        if self.average:
            self.average.update_parameters(self.model)
        return values

    def _batches(self, stage: StagePlan, done: int) -> Iterator[Batch]:
        size = self.profile.train.batch_size
        dataset = PairDataset(self.sources, self.profile, stage.config, stage.steps * size, first=stage.first_step * size)
        loader = DataLoader(
            Subset(dataset, range(done * size, len(dataset))),
            batch_size=size,
            num_workers=self.profile.data.workers,
            collate_fn=collate,
            prefetch_factor=4 if self.profile.data.workers else None,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=ignore_interrupts,
        )
        try:
            yield from loader
        except InputError as error:  # from a worker it comes with the worker's traceback before the message
            raise InputError(str(error).strip().rpartition("InputError: ")[2]) from error

    def _count(self, batch: Batch, bad_steps: int) -> None:
        for problem in batch.problems:
            print(f"replaced by another pair: {problem}")
        self.state.replaced += len(batch.problems)
        self.state.redrawn += batch.redrawn
        seen = (self.state.step + 1) * self.profile.train.batch_size
        if self.state.replaced > max(LARGEST_BAD_SHARE * seen, 10):
            raise InputError(
                f"{self.state.replaced} of {seen} pairs met a file that cannot be used, the last: {batch.problems[-1]}"
            )
        self.state.skipped += bad_steps > 0
        if bad_steps >= BAD_STEPS_IN_A_ROW:
            raise InputError(f"the loss was not finite {bad_steps} steps in a row at step {self.state.step}; lower train.lr")

    def _log(self, stage: str, rate: float, log: dict[str, list[float]], elapsed: float) -> None:
        steps = len(log["loss"])
        weights = self.model.mask.fusion.weights().detach().tolist()
        row: dict[str, Any] = {
            "step": self.state.step,
            "stage": stage,
            "pairs": self.state.step * self.profile.train.batch_size,
            "lr": rate,
        }
        for key in ("loss", "cls", "loc", "mask", "mask_iou", "grad_backbone", "grad_location", "grad_mask", "grad_fusion"):
            finite = [value for value in log.get(key, []) if math.isfinite(value)]
            row[key] = float(np.mean(finite)) if finite else math.nan
        row |= {f"w{level}": weight for level, weight in zip(self.profile.model.levels, weights, strict=True)}
        row["pairs_per_second"] = steps * self.profile.train.batch_size / elapsed
        row["data_share"] = 1 - sum(log["compute"]) / elapsed
        row["peak_memory_mb"] = peak_memory_bytes() / 2**20
        row["seconds"] = self.state.seconds + elapsed
        self.state.rows.append(row)
        write_csv(self.run_dir / "log.csv", pd.DataFrame(self.state.rows))

    def _save(self, optimiser: torch.optim.Optimizer | None) -> None:
        content = {
            "profile": self.profile.to_dict(),
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimiser": optimiser.state_dict() if optimiser else None,
            "scaler": self.scaler.state_dict(),
            "state": vars(self.state),
            "torch_rng": torch.get_rng_state(),
        }
        with atomic_path(self.run_dir / CHECKPOINT) as temporary:
            torch.save(content, temporary)

    def _resume(self) -> None:
        path = self.run_dir / CHECKPOINT
        if not path.is_file():
            return
        try:
            content = torch.load(path, map_location=self.device, weights_only=True)
            saved = profile_from_dict(content["profile"])
        except (EOFError, KeyError, OSError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
            raise InputError(f"{path} is damaged or no checkpoint of this project; delete it to train from the start") from error
        if training_settings(saved) != training_settings(self.profile):
            raise InputError(f"{path} belongs to a run with other settings; choose another run folder or delete it")
        self.model.load_state_dict(content["model"])
        if self.average:
            self.average.load_state_dict(content["average"])
        self.optimiser_state = content["optimiser"]
        self.scaler.load_state_dict(content["scaler"])
        self.state = RunState(**content["state"])
        torch.set_rng_state(content["torch_rng"].cpu())

    def _summary(self) -> dict[str, Any]:
        return {
            "run": self.run_dir.name,
            "variant": self.profile.variant,
            "profile": self.profile.name,
            "seed": self.profile.seed,
            "precision": str(self.dtype).removeprefix("torch."),
            "pairs": self.steps * self.profile.train.batch_size,
            "seconds": round(self.state.seconds, 1),
            "peak_memory_mb": round(peak_memory_bytes() / 2**20),
            "replaced_files": self.state.replaced,
            "redrawn_pairs": self.state.redrawn,
            "skipped_steps": self.state.skipped,
        }
