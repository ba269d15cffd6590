"""The training loop: one or several stages, a schedule, checkpoints from which a run goes on exactly where it was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from e3sn_lib.config import Profile, StageConfig, TrainSetConfig
from e3sn_lib.data.pairs import Batch, PairDataset, collate
from e3sn_lib.data.types import TrackSet
from e3sn_lib.errors import InputError, deferred_interrupts
from e3sn_lib.files import write_csv, write_json, write_text
from e3sn_lib.losses import Counts, compute_losses, count_targets
from e3sn_lib.model.device import autocast, best_device, peak_memory_bytes, precision_of
from e3sn_lib.model.network import E3SN, build_model
from e3sn_lib.model.weights import load_backbone, load_network, save_model
from e3sn_lib.profiles.identity import content_hash
from e3sn_lib.training import processes
from e3sn_lib.training.provenance import environment, seed_everything
from e3sn_lib.training.schedule import StagePlan, build_optimiser, learning_rate, parameter_groups, plan, set_trainable
from e3sn_lib.training.state import (
    CHECKPOINT,
    FINAL,
    LOCK,
    RunState,
    Watch,
    copy_checkpoint,
    ignore_interrupts,
    read_checkpoint,
    tensorboard_writer,
    write_checkpoint,
)

Source = tuple[TrackSet, TrainSetConfig]
LARGEST_BAD_SHARE = 0.01
"""Pairs that needed a replacement for a damaged file; more stop the run."""
BAD_STEPS_IN_A_ROW = 5
"""Steps whose loss or gradient is not finite; so many in a row stop the run."""


def warmed_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average for `AveragedModel` whose memory grows with the steps, up to `decay`.

    With a fixed decay the untrained weights of the first step would make up much of the average of a short run or stage.
    """

    def update(averages: Any, currents: Any, steps: Tensor) -> None:
        warmed = (1 + float(steps)) / (10 + float(steps))
        get_ema_multi_avg_fn(min(decay, warmed))(averages, currents, steps)  # type: ignore[no-untyped-call]

    return update


class Trainer:
    """One run in one folder: ``config.yaml``, ``env.json``, ``log.csv``, ``checkpoint.pt`` and at the end ``model.safetensors``.

    The final weights are in half precision, so that what is evaluated is what can be passed on.

    Within `processes.process_group` each process trains on its part of every batch, and the first one writes. The pairs of a step
    and, but for rounding, the result are those of a single process.

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
        config, self.processes = profile.train, processes.world()
        if config.batch_size % (self.processes * config.accumulate):
            raise InputError(
                f"train.batch_size is {config.batch_size}; it must be a multiple of {self.processes} (processes) "
                f"x {config.accumulate} (train.accumulate)"
            )
        self.device = device or best_device()
        self.dtype = precision_of(profile.train.precision, self.device)
        self.stages = plan(profile)
        self.steps = sum(stage.steps for stage in self.stages)
        seed_everything(profile.seed)
        self.model = build_model(profile.model)
        if source := config.init_weights:
            digest = content_hash(Path(source))
            if config.init_sha256 not in ("", digest):
                raise InputError(
                    f"train.init_weights: {source} is another model: its SHA-256 is {digest}..., not {config.init_sha256}"
                )
            self.profile = replace(profile, train=replace(config, init_sha256=digest))
            load_network(self.model, Path(source))
        else:
            load_backbone(self.model.backbone, profile.train.weights, profile.model, data_root)
        if self.processes > 1:
            processes.synchronise_batch_norm(self.model)
        self.network: nn.Module = self.model.to(self.device)
        self.average = None
        if decay := profile.train.average:
            self.average = AveragedModel(self.model, multi_avg_fn=warmed_average(decay), use_buffers=True)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.state = RunState()
        self.optimiser_state: dict[str, Any] | None = None

    def run(self, show: Callable[[str], None] = print, watch: Watch | None = None) -> Path:
        """Train to the end, from the last checkpoint if there is one, and return the final model's path.

        Args:
            show: gets the line that says what is about to be done.
            watch: gets the log so far whenever a row is added.

        Raises:
            InputError: too many damaged files, a loss that stays not finite, a checkpoint of other settings, a full disk, or
                another process that trains in this folder.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, when the step under way is done and saved.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.run_dir / LOCK, timeout=0) if processes.is_first() else nullcontext():
                return self._run(show, watch)
        except Timeout as error:
            raise InputError(f"{self.run_dir} is in use by another training; wait for its end, or choose another folder") from error

    def _run(self, show: Callable[[str], None], watch: Watch | None) -> Path:
        self._resume()
        self.watchers = [watch] if watch else []
        if self.profile.train.tensorboard and processes.is_first():
            self.watchers.append(tensorboard_writer(self.run_dir))
        path = self.run_dir / FINAL
        if processes.is_first():
            self._prepare(show)
        with deferred_interrupts() as interrupted:
            for stage in self.stages:
                if self.state.step < stage.first_step + stage.steps:
                    self._run_stage(stage, interrupted)
        if processes.is_first():
            save_model(path, cast(E3SN, self.average.module) if self.average else self.model, self.profile, half=True)
            write_json(self.run_dir / "summary.json", self._summary())
        return path

    def _prepare(self, show: Callable[[str], None]) -> None:
        write_text(self.run_dir / "config.yaml", yaml.safe_dump(self.profile.to_dict(), sort_keys=False))
        write_json(self.run_dir / "env.json", environment())
        show(
            f"{self.run_dir.name}: {self.profile.train.pairs} pairs in {self.steps} steps of {self.profile.train.batch_size}, "
            f"{self._precision} on {self.device.type}, from step {self.state.step}"
        )

    def _run_stage(self, stage: StagePlan, interrupted: Callable[[], bool]) -> None:
        config = self.profile.train
        groups = parameter_groups(self.model, config, stage.config.train_location)
        optimiser = build_optimiser(groups, config)
        if self.optimiser_state is not None:
            optimiser.load_state_dict(self.optimiser_state)
            self.optimiser_state = None
        done = self.state.step - stage.first_step
        if self.average and done == 0:
            self.average.n_averaged.zero_()  # what earlier stages did not train has no history worth keeping
        log: dict[str, list[float]] = {}
        started, bad_steps, trained = time.perf_counter(), 0, None
        silent = self.steps < 200 or not processes.is_first()
        bar = tqdm(total=stage.steps, initial=done, desc=stage.name, mininterval=30, disable=silent)
        for batches in self._batches(stage, done):
            begun = time.perf_counter()
            progress = (self.state.step - stage.first_step) / stage.steps
            if trained != (trained := progress >= config.unfreeze_at):
                set_trainable(self.model, optimiser.param_groups, config, train_backbone=trained)
                self._distribute()
            rate = learning_rate(self.state.step - stage.first_step, stage.steps, config, stage.config)
            parts = self._step(batches, optimiser, rate, stage.config)
            bad_steps = 0 if math.isfinite(parts["loss"]) else bad_steps + 1
            self._count(batches, bad_steps)
            log.setdefault("compute", []).append(time.perf_counter() - begun)
            for key, value in parts.items():
                log.setdefault(key, []).append(value)
            self.state.step += 1
            bar.update()
            last, stop = self.state.step == stage.first_step + stage.steps, self._sum(interrupted()) > 0
            if self.state.step % config.log_every == 0 or last or stop:
                self._log(stage.name, rate, log, time.perf_counter() - started)
                log, started = {}, time.perf_counter()
            if (self.state.step % config.checkpoint_every == 0 or stop) and not last:
                self._save(optimiser)
            if stop and not last:
                raise KeyboardInterrupt(
                    f"stopped after step {self.state.step} of {self.steps}; the same command goes on from there"
                )
        bar.close()
        self._save(None)

    def _distribute(self) -> None:
        """Which parameters have gradients to exchange is fixed when the network is wrapped."""
        if self.processes > 1:
            devices = [torch.cuda.current_device()] if self.device.type == "cuda" else None
            self.network = DistributedDataParallel(self.model, devices, broadcast_buffers=False, find_unused_parameters=True)

    def _step(self, batches: list[Batch], optimiser: torch.optim.Optimizer, rate: float, stage: StageConfig) -> dict[str, float]:
        for group in optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        optimiser.zero_grad(set_to_none=True)
        counts, statistics = self._count_targets(batches), [buffer.clone() for buffer in self.model.buffers()]
        values: dict[str, Any] = {}
        for number, batch in enumerate(batches, 1):
            exchange = number == len(batches) or not isinstance(self.network, DistributedDataParallel)
            with nullcontext() if exchange else cast(DistributedDataParallel, self.network).no_sync():
                with autocast(self.dtype, self.device):
                    loss, parts = compute_losses(self.network, batch.to(self.device), self.profile, stage, counts)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            for key, value in {"loss": loss, **parts}.items():
                values[key] = values.get(key, 0.0) + value.detach()
        means = processes.total(torch.stack([value.float() for value in values.values()])) / self.processes
        values = dict(zip(values, means.tolist(), strict=True))
        finite = math.isfinite(values["loss"])
        if finite:
            self.scaler.unscale_(optimiser)
            groups = {f"grad_{group['name']}": group["params"] for group in optimiser.param_groups}
            norms = {name: float(nn.utils.clip_grad_norm_(each, self.profile.train.clip)) for name, each in groups.items()}
            values |= norms
            # to a scaler an infinite gradient is an everyday thing: it skips the step itself and scales less from then on
            finite = self.scaler.is_enabled() or all(map(math.isfinite, norms.values()))
        if not finite:
            for buffer, kept in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(kept)
            return values | {"loss": math.nan}
        self.scaler.step(optimiser)
        self.scaler.update()
        if self.average:
            self.average.update_parameters(self.model)
        return values

    def _count_targets(self, batches: list[Batch]) -> Counts:
        """Of all processes, divided by their number: gradients are averaged over the processes."""
        negatives = self.profile.loss.negatives
        each = [torch.stack(count_targets(batch.anchor_labels, batch.sample_labels, negatives)) for batch in batches]
        sums = processes.total(torch.stack(each).sum(dim=0).float().to(self.device))
        sums[:-1].clamp_(min=1)  # the last only averages the mask IoU, which is unknown of no mask
        return Counts(*(sums / self.processes))

    def _batches(self, stage: StagePlan, done: int) -> Iterator[list[Batch]]:
        """This process's part of each step's pairs, in ``train.accumulate`` batches."""
        size, parts = self.profile.train.batch_size, self.profile.train.accumulate
        dataset = PairDataset(self.sources, self.profile, stage.config, stage.steps * size, first=stage.first_step * size)
        share = size // self.processes
        first = processes.rank() * share
        loader = DataLoader(
            dataset,
            batch_size=share // parts,
            sampler=(step * size + first + i for step in range(done, stage.steps) for i in range(share)),
            num_workers=self.profile.data.workers,
            collate_fn=collate,
            prefetch_factor=4 if self.profile.data.workers else None,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=ignore_interrupts,
        )
        try:
            batches = iter(loader)
            for _ in range(done, stage.steps):
                yield [next(batches) for _ in range(parts)]
        except InputError as error:  # from a worker it comes with the worker's traceback before the message
            raise InputError(str(error).strip().rpartition("InputError: ")[2]) from error

    def _sum(self, value: float) -> float:
        return float(processes.total(torch.tensor(float(value), device=self.device)))

    def _count(self, batches: list[Batch], bad_steps: int) -> None:
        problems = [problem for batch in batches for problem in batch.problems]
        for problem in problems:
            print(f"replaced by another pair: {problem}")
        self.state.replaced += round(self._sum(len(problems)))
        self.state.redrawn += round(self._sum(sum(batch.redrawn for batch in batches)))
        seen = (self.state.step + 1) * self.profile.train.batch_size
        if self.state.replaced > max(LARGEST_BAD_SHARE * seen, 10):
            raise InputError(
                f"{self.state.replaced} of {seen} pairs met a file that cannot be used, the last: {' '.join(problems[-1:])}"
            )
        self.state.skipped += bad_steps > 0
        if bad_steps >= BAD_STEPS_IN_A_ROW:
            raise InputError(
                f"the loss or its gradient was not finite {bad_steps} steps in a row at step {self.state.step}; lower train.lr"
            )

    def _log(self, stage: str, rate: float, steps: dict[str, list[float]], elapsed: float) -> None:
        weights = self.model.mask.fusion.weights().detach().tolist()
        fusion = {f"w{level}": weight for level, weight in zip(self.profile.model.levels, weights, strict=True)}
        self.state.add_row(stage, self.profile.train.batch_size, rate, steps, elapsed, fusion)
        if processes.is_first():
            import pandas as pd

            log = pd.DataFrame(self.state.rows)
            write_csv(self.run_dir / "log.csv", log)
            for watch in self.watchers:
                watch(log)

    def _save(self, optimiser: torch.optim.Optimizer | None) -> None:
        if not processes.is_first():
            return
        content = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimiser": optimiser.state_dict() if optimiser else None,
            "scaler": self.scaler.state_dict(),
            "state": vars(self.state),
        }
        write_checkpoint(self.run_dir, self.profile, self._precision, content, self.state.step)
        if self.backup:
            copy_checkpoint(self.run_dir, self.backup)

    @property
    def backup(self) -> Path | None:
        """The run's folder in ``train.backup``."""
        return Path(self.profile.train.backup) / self.run_dir.name if self.profile.train.backup else None

    def _resume(self) -> None:
        if self.backup and processes.is_first() and not (self.run_dir / CHECKPOINT).is_file():
            copy_checkpoint(self.backup, self.run_dir)
        content = read_checkpoint(self.run_dir, self.profile, self._precision)
        if content is None:
            return
        self.model.load_state_dict(content["model"])
        if self.average:
            self.average.load_state_dict(content["average"])
        self.optimiser_state = content["optimiser"]
        self.scaler.load_state_dict(content["scaler"])
        self.state = RunState(**content["state"])

    @property
    def _precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def _summary(self) -> dict[str, Any]:
        return {
            "run": self.run_dir.name,
            "variant": self.profile.variant,
            "profile": self.profile.name,
            "seed": self.profile.seed,
            "precision": self._precision,
            "pairs": self.steps * self.profile.train.batch_size,
            "processes": self.processes,
            "seconds": round(self.state.seconds, 1),
            "peak_memory_mb": round(peak_memory_bytes() / 2**20),
            "replaced_files": self.state.replaced,
            "redrawn_pairs": self.state.redrawn,
            "skipped_steps": self.state.skipped,
        }
