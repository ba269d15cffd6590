"""The training loop: one or several stages, with checkpoints.

A run that was stopped or killed goes on from its last checkpoint and ends with the same weights as
a run that was never stopped, bit for bit on a CPU.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from e3sn_lib.config import Profile, StageConfig
from e3sn_lib.data.pairs import Batch, PairDataset, Source
from e3sn_lib.errors import InputError, deferred_interrupts
from e3sn_lib.files import locked, read_json, write_json, write_text
from e3sn_lib.losses import Counts, compute_losses, count_targets
from e3sn_lib.model import device, weights
from e3sn_lib.model.network import E3SN, build_model
from e3sn_lib.profiles.identity import content_hash
from e3sn_lib.training import processes, schedule
from e3sn_lib.training import state as store
from e3sn_lib.training.batches import step_batches
from e3sn_lib.training.provenance import environment, seed_everything

LARGEST_BAD_SHARE = 0.01
"""A run stops if draws that met a damaged file are more than ten and more than this share of the
pairs so far."""
BAD_STEPS_IN_A_ROW = 5
"""A run stops after so many steps with a loss or gradient that is not finite."""


class Trainer:
    """Train one run in one folder.

    The folder gets ``config.yaml``, ``env.json``, ``log.csv``, ``checkpoint.pt``, and at the end
    ``summary.json`` and ``model.safetensors``. The final weights are in half precision, so that the
    evaluated model is the one that can be passed on.

    Within `processes.process_group` each process trains on its part of every batch, and the first
    one writes. Each step has the same pairs as with one process. The result differs by rounding.
    Also, a part without any mask adds one window to batch-norm; no loss counts it.
    Raises InputError if the batch cannot be divided, if a stage has no data or fewer pairs than a
    step, or if there are no weights that fit.

    Args:
        sources: the opened track sets, each with its settings.
        data_root: where files of backbone weights are searched.
    """

    def __init__(
        self, profile: Profile, sources: list[Source], run_dir: Path, data_root: Path = Path()
    ) -> None:
        self.profile, self.sources, self.run_dir = profile, sources, run_dir
        config, self.world = profile.train, processes.world()
        if config.batch_size % (self.world * config.accumulate):
            parts = f"{self.world} (processes) x {config.accumulate} (train.accumulate)"
            fault = f"train.batch_size is {config.batch_size}"
            raise InputError(f"{fault}; it must be a multiple of {parts}")
        self.device = device.best_device()
        self._compute_in(processes.of_first(device.precision_of(config.precision, self.device)))
        self.stages = schedule.plan(profile)
        for stage in self.stages:  # is there data for each? asked before hours of training
            PairDataset(sources, profile, stage.config)
        self.steps = sum(stage.steps for stage in self.stages)
        seed_everything(profile.seed)
        self.model = build_model(profile.model)
        self.state = store.RunState()
        self._load_first_weights(data_root)
        if self.world > 1:
            processes.synchronise_batch_norm(self.model, self.device)
        self.network: nn.Module = self.model.to(self.device)
        self.average = None
        if config.average:
            update = schedule.warmed_average(config.average)
            self.average = AveragedModel(self.model, multi_avg_fn=update, use_buffers=True)
        self.optimiser_state: dict[str, Any] | None = None
        self.backup = Path(config.backup) / run_dir.name if config.backup else None

    def _compute_in(self, dtype: torch.dtype) -> None:
        self.dtype, self.precision = dtype, str(dtype).removeprefix("torch.")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)

    def _load_first_weights(self, data_root: Path) -> None:
        config = self.profile.train
        if not config.init_weights:
            if config.init_sha256:
                raise InputError("train.init_sha256 is set, but not train.init_weights; set both")
            weights.load_backbone(self.model.backbone, config.weights, data_root)
            return
        source = Path(config.init_weights)
        digest = content_hash(source)
        if config.init_sha256 not in ("", digest):
            other = f"{source} is another model: its SHA-256 is {digest}..."
            raise InputError(f"train.init_weights: {other}, not {config.init_sha256}")
        own, theirs = vars(self.profile.model), vars(weights.load_profile_of(source).model)
        if differing := [name for name in own if own[name] != theirs[name]]:
            told = ", ".join(f"model.{name}={theirs[name]}" for name in differing)
            raise InputError(f"train.init_weights: {source} was trained with {told}; set the same")
        self.profile = replace(self.profile, train=replace(config, init_sha256=digest))
        weights.strict_load(self.model, weights.read_safetensors(source), f"model {source}")
        self.state.pairs_before = weights.pairs_seen(source)

    def run(self, watch: store.Watch | None = None) -> Path:
        """Train to the end, from the last checkpoint; return the path of the final model.

        Raises:
            InputError: too many damaged files, a loss that stays not finite, a checkpoint of other
                settings, a full disk, or another process that trains in this folder.
            KeyboardInterrupt: after one of `end_signals`, once the current step, or the finished
                run, is saved.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        lock = locked(self.run_dir / store.LOCK, f"{self.run_dir} is in use by another training")
        try:
            with lock if processes.is_first() else nullcontext():
                return self._run(watch)
        except OSError as error:
            remedy = "is the disk full? Make room and start again: it goes on from its checkpoint"
            raise InputError(f"training in {self.run_dir} ended: {error}; {remedy}") from error

    def _run(self, watch: store.Watch | None) -> Path:
        # go on from the last checkpoint, if there is one
        device.reset_peak_memory()  # it would be that of an earlier run in this process
        self._resume()
        self.watchers: list[store.Watch] = [watch] if watch else []
        if processes.is_first():
            if self.profile.train.tensorboard:
                self.watchers.append(store.tensorboard_writer(self.run_dir))
            self._write_settings()

        # train the stages that are not finished
        with deferred_interrupts() as interrupted:
            for stage in self.stages:
                if self.state.step < stage.first_step + stage.steps:
                    self._run_stage(stage, interrupted)

        if processes.is_first():
            self._write_results()
        if self._sum(interrupted()):  # in the last step: what the caller would do next is not begun
            raise KeyboardInterrupt(f"{self.run_dir.name} is finished")
        return self.run_dir / store.FINAL

    def _write_settings(self) -> None:
        config = self.profile.train
        settings = yaml.safe_dump(self.profile.to_dict(), sort_keys=False)
        write_text(self.run_dir / "config.yaml", settings)
        path, present = self.run_dir / store.ENVIRONMENT, environment()
        if self.state.step:
            with suppress(InputError):  # it is lost or damaged
                began = read_json(path, "record")
                changed = {key: value for key, value in present.items() if value != began.get(key)}
                changed.pop("command", None)
                added = [changed] if self.state.step < self.steps else []
                present = began | {"resumed": [*began.get("resumed", ()), *added]}
        write_json(path, present)
        kept = " as it began" if self.state.step and config.precision == "auto" else ""
        steps = f"{config.pairs} pairs in {self.steps} steps of {config.batch_size}"
        how = f"{self.precision}{kept} on {self.device.type}"
        print(f"{self.run_dir.name}: {steps}, {how}, from step {self.state.step}")

    def _run_stage(self, stage: schedule.StagePlan, interrupted: Callable[[], bool]) -> None:
        config, end = self.profile.train, stage.first_step + stage.steps
        optimiser = self._start_stage(stage)
        measured: list[dict[str, float]] = []  # of the steps since the last row of the log
        row_begun = step_ended = time.perf_counter()
        bad_steps = 0
        backbone_trained: bool | None = None
        done, before = self.state.step - stage.first_step, self.state.pairs_before
        hide = self.steps < 200 or not processes.is_first()
        bar = tqdm(total=stage.steps, initial=done, desc=stage.name, mininterval=30, disable=hide)
        for batches in step_batches(self.sources, self.profile, stage, done, before):
            step_begun = time.perf_counter()
            step = self.state.step - stage.first_step
            rate = schedule.learning_rate(step, stage.steps, config, stage.config)

            # choose what is trained: at the stage's first step, and when the backbone's time comes
            train_backbone = step / stage.steps >= config.unfreeze_at
            if train_backbone != backbone_trained:
                backbone_trained = train_backbone
                schedule.set_trainable(self.model, optimiser.param_groups, config, train_backbone)
                self._distribute()

            # train one step, and count what went wrong
            result = self._step(batches, optimiser, rate, stage.config)
            bad_steps = 0 if math.isfinite(result["loss"]) else bad_steps + 1
            self._count(batches, bad_steps)
            measured.append(result | {"waited": step_begun - step_ended})
            self.state.step += 1
            bar.update()

            # log
            last, stop = self.state.step == end, self._sum(interrupted()) > 0
            if self.state.step % config.log_every == 0 or last or stop:
                self._log(stage.name, rate, measured, time.perf_counter() - row_begun)
                measured, row_begun = [], time.perf_counter()

            # save, and stop if asked to; the end of a stage is saved below, without its optimiser
            if (self.state.step % config.checkpoint_every == 0 or stop) and not last:
                self._save(optimiser)
            if stop and not last:
                reached = f"stopped after step {self.state.step} of {self.steps}"
                raise KeyboardInterrupt(f"{reached}; the same command or cell goes on from there")
            step_ended = time.perf_counter()
        bar.close()
        self._save(None)

    def _start_stage(self, stage: schedule.StagePlan) -> Optimizer:
        config = self.profile.train
        groups = schedule.parameter_groups(self.model, config, stage.config.train_location)
        optimiser = schedule.build_optimiser(groups, config)
        if self.optimiser_state is not None:
            with store.damage_of(self.run_dir):
                optimiser.load_state_dict(self.optimiser_state)
            self.optimiser_state = None
        if self.average and self.state.step == stage.first_step:
            # go on from the average, also of what this stage freezes; its own begins anew
            self.model.load_state_dict(self.average.module.state_dict())
            self.average.n_averaged.zero_()
        return optimiser

    def _distribute(self) -> None:
        """Wrap the network anew: the wrapper exchanges gradients of what is trainable now."""
        if self.world > 1:
            devices = [torch.cuda.current_device()] if self.device.type == "cuda" else None
            known = signature(DistributedDataParallel).parameters
            name = "forward_sync_buffers"  # of torch 2.14; before, it was broadcast_buffers
            options: dict[str, Any] = {name if name in known else "broadcast_buffers": False}
            self.network = DistributedDataParallel(
                self.model, devices, find_unused_parameters=True, **options
            )

    def _step(
        self, batches: list[Batch], optimiser: Optimizer, rate: float, stage: StageConfig
    ) -> dict[str, float]:
        """Train one step; return its losses and gradient norms.

        The ``loss`` is NaN if the step was skipped, because its loss or gradient was not finite.
        """
        # set the learning rate of each group
        for group in optimiser.param_groups:
            group["lr"] = rate * group["scale"]

        # compute losses and gradients
        optimiser.zero_grad(set_to_none=True)
        buffers_before = [buffer.clone() for buffer in self.model.buffers()]
        losses = self._backward(batches, stage)

        # clip the gradient of each group
        norms: dict[str, float] = {}
        if math.isfinite(losses["loss"]):
            self.scaler.unscale_(optimiser)
            for group in optimiser.param_groups:
                norm = nn.utils.clip_grad_norm_(group["params"], self.profile.train.clip)
                norms[f"grad_{group['name']}"] = float(norm)

        # skip the step if something is not finite, and restore the batch-norm statistics
        # (with a gradient scaler infinite gradients are normal: it skips the step itself)
        gradients_usable = self.scaler.is_enabled() or all(map(math.isfinite, norms.values()))
        if not (math.isfinite(losses["loss"]) and gradients_usable):
            for buffer, before in zip(self.model.buffers(), buffers_before, strict=True):
                buffer.copy_(before)
            return losses | norms | {"loss": math.nan}

        # step the optimiser, and update the average
        self.scaler.step(optimiser)
        self.scaler.update()
        if self.average:
            self.average.update_parameters(self.model)
        return losses | norms

    def _backward(self, batches: list[Batch], stage: StageConfig) -> dict[str, float]:
        """Add up the gradients of a batch's parts; return the losses of the whole batch."""
        counts = self._count_targets(batches)
        sums: dict[str, Any] = {}
        for number, batch in enumerate(batches, 1):
            # processes exchange their gradients once, with the last part
            wait = number < len(batches) and isinstance(self.network, DistributedDataParallel)
            with cast(DistributedDataParallel, self.network).no_sync() if wait else nullcontext():
                here = batch.to(self.device)
                with device.autocast(self.dtype, self.device):
                    loss, parts = compute_losses(self.network, here, self.profile, stage, counts)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": loss, **parts}.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        means = processes.total(torch.stack([value.float() for value in sums.values()]))
        return dict(zip(sums, (means / self.world).tolist(), strict=True))

    def _count_targets(self, batches: list[Batch]) -> Counts:
        """Return the counts of the whole batch, divided by the number of processes.

        The division makes up for the gradients, which are averaged over the processes.
        """
        anchors = torch.cat([batch.anchor_labels for batch in batches])
        samples = torch.cat([batch.sample_labels for batch in batches])
        counts = torch.stack(count_targets(anchors, samples, self.profile.loss.negatives))
        sums = processes.total(counts.float().to(self.device))
        sums[:-1].clamp_(min=1)  # the last stays 0: without masks the mean mask IoU is NaN
        return Counts(*(sums / self.world))

    def _sum(self, value: float) -> float:
        return float(processes.total(torch.tensor(float(value), device=self.device)))

    def _count(self, batches: list[Batch], bad_steps: int) -> None:
        """Count damaged files and bad steps; stop the run if there are too many."""
        state, problems = self.state, [each for batch in batches for each in batch.problems]
        for problem in problems:
            print(f"replaced by another pair: {problem}")
        state.replaced += round(self._sum(len(problems)))
        state.redrawn += round(self._sum(sum(batch.redrawn for batch in batches)))
        state.skipped += bad_steps > 0
        seen = (state.step + 1) * self.profile.train.batch_size
        if state.replaced > max(LARGEST_BAD_SHARE * seen, 10):
            fault = f"{state.replaced} draws in {seen} pairs met a file that cannot be used"
            raise InputError(f"{fault}, the last: {' '.join(problems[-1:])}")
        if bad_steps >= BAD_STEPS_IN_A_ROW:
            fault = f"the loss or its gradient was not finite {bad_steps} steps in a row"
            raise InputError(f"{fault} at step {state.step}; lower train.lr")

    def _log(self, stage: str, rate: float, steps: list[dict[str, float]], elapsed: float) -> None:
        """Add a row to the log: means of the finite values of the steps since the row before."""
        state, batch_size = self.state, self.profile.train.batch_size
        row: dict[str, Any] = {"step": state.step, "stage": stage}
        row |= {"pairs": state.step * batch_size, "lr": rate}
        for name in store.MEASURED:
            finite = [step[name] for step in steps if math.isfinite(step.get(name, math.nan))]
            row[name] = float(np.mean(finite)) if finite else math.nan
        levels = [f"w{level}" for level in self.profile.model.levels]
        row |= dict(zip(levels, self.model.mask.fusion.weights().tolist(), strict=True))
        state.seconds += elapsed
        row["pairs_per_second"] = len(steps) * batch_size / elapsed
        row["data_share"] = sum(step["waited"] for step in steps) / elapsed
        row["peak_memory_mb"] = device.peak_memory_bytes() / 2**20
        row["seconds"] = state.seconds
        state.rows.append(row)
        if processes.is_first():
            log = store.write_log(self.run_dir, state)
            for watch in self.watchers:
                watch(log)

    def _save(self, optimiser: Optimizer | None) -> None:
        if not processes.is_first():
            return
        content = {
            "profile": self.profile.to_dict(),
            "precision": self.precision,
            "torch_rng": torch.get_rng_state(),
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimiser": optimiser.state_dict() if optimiser else None,
            "scaler": self.scaler.state_dict(),
            "state": vars(self.state),
        }
        store.write_checkpoint(self.run_dir, content)
        if self.backup:
            store.copy_checkpoint(self.run_dir, self.backup)

    def _resume(self) -> None:
        with processes.first_alone():  # it copies, and the others find the copy
            if self.backup and not (self.run_dir / store.CHECKPOINT).is_file():
                store.copy_checkpoint(self.backup, self.run_dir)
        content = store.read_checkpoint(self.run_dir, self.profile)
        if content is None:
            return
        with store.damage_of(self.run_dir):
            torch.set_rng_state(content["torch_rng"])
            self.model.load_state_dict(content["model"])
            if self.average:
                self.average.load_state_dict(content["average"])
            self.optimiser_state = content["optimiser"]
            # ``auto`` may choose another number type on this machine: go on in the run's own
            self._compute_in(getattr(torch, content["precision"]))
            self.scaler.load_state_dict(content["scaler"])
            before = {"pairs_before": self.state.pairs_before}  # older checkpoints lack it
            self.state = store.RunState(**content["state"] | before)
            if self.state.step not in range(self.steps + 1):
                raise ValueError("step")

    def _write_results(self) -> None:
        """Write the model last: a folder that holds it is a finished run."""
        store.write_log(self.run_dir, self.state)
        state, pairs = self.state, self.steps * self.profile.train.batch_size
        summary = {
            "run": self.run_dir.name,
            "variant": self.profile.variant,
            "profile": self.profile.name,
            "seed": self.profile.seed,
            "precision": self.precision,
            "pairs": pairs,
            "pairs_before": state.pairs_before,
            "processes": self.world,
            "seconds": round(state.seconds, 1),
            # over all starts of the run: this process may have done the last steps only
            "peak_memory_mb": round(max(row["peak_memory_mb"] for row in state.rows)),
            "replaced_files": state.replaced,
            "redrawn_pairs": state.redrawn,
            "skipped_steps": state.skipped,
        }
        write_json(self.run_dir / "summary.json", summary)
        final = cast(E3SN, self.average.module) if self.average else self.model
        notes = {"run": self.run_dir.name, "pairs": str(state.pairs_before + pairs)}
        weights.save_model(self.run_dir / store.FINAL, final, self.profile, half=True, **notes)
