"""A run's state: its files, its last good checkpoint and its log.

A run's last good state on disk: written whole or not at all, and never taken for another run's.
What a training says of itself while it runs: counts, rows of its log, and who watches them.
"""

from __future__ import annotations

import math
import pickle
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path
from e3sn_lib.model.device import peak_memory_bytes
from e3sn_lib.profiles.identity import training_settings
from e3sn_lib.profiles.loading import profile_from_dict

if TYPE_CHECKING:
    import pandas as pd

CHECKPOINT = "checkpoint.pt"
FINAL = "model.safetensors"
LOCK = "lock"
Watch = Callable[["pd.DataFrame"], None]
"""Gets the log so far whenever a row is added."""
MEASURED = ("loss", "cls", "loc", "mask", "mask_iou", "grad_backbone", "grad_location", "grad_mask", "grad_fusion")
"""What a row averages over its steps; NaN for what a stage does not train."""


def write_checkpoint(run_dir: Path, profile: Profile, precision: str, content: dict[str, Any], step: int) -> None:
    """Replace a run's checkpoint by `content`, tensors and plain numbers, with what it belongs to and torch's generator.

    Raises:
        InputError: it cannot be written; the one before it is kept.
    """
    path = run_dir / CHECKPOINT
    try:
        with atomic_path(path) as temporary:
            belongs = {"profile": profile.to_dict(), "precision": precision, "torch_rng": torch.get_rng_state()}
            torch.save(belongs | content, temporary)
    except (OSError, RuntimeError) as error:  # torch raises a RuntimeError when its archive cannot be written
        kept = "the one before it is kept" if path.is_file() else "there is none yet"
        raise InputError(
            f"cannot write the checkpoint of step {step}, {path}; {kept}. Free some disk space and start again"
        ) from error


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a run's checkpoint, whole or not at all, from one folder to another; nothing happens where there is none.

    Raises:
        InputError: it cannot be written.
    """
    if not (source / CHECKPOINT).is_file():
        return
    try:
        with atomic_path(target / CHECKPOINT) as temporary:
            shutil.copyfile(source / CHECKPOINT, temporary)
    except OSError as error:
        raise InputError(
            f"cannot copy {source / CHECKPOINT} to {target} ({error.strerror}); free some space there, or change train.backup"
        ) from error


def read_checkpoint(run_dir: Path, profile: Profile, precision: str) -> dict[str, Any] | None:
    """What was written, on the CPU, with torch's generator set to its state then; None if there is no checkpoint.

    Raises:
        InputError: it is damaged, or of a run with other settings or another precision.
    """
    path = run_dir / CHECKPOINT
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved, saved_precision = profile_from_dict(content["profile"]), content["precision"]
    except (EOFError, KeyError, OSError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is damaged or no checkpoint of this project; delete it to train from the start") from error
    if training_settings(saved) != training_settings(profile):
        raise InputError(f"{path} belongs to a run with other settings; choose another run folder or delete it")
    if saved_precision != precision:
        raise InputError(
            f"{path} was computed in {saved_precision}, and this device would go on in {precision}; "
            "go on where it began, or delete it to train from the start"
        )
    torch.set_rng_state(content["torch_rng"])
    return content


@dataclass
class RunState:
    """What a checkpoint holds beside weights and optimiser."""

    step: int = 0
    seconds: float = 0.0
    replaced: int = 0
    redrawn: int = 0
    skipped: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add_row(
        self,
        stage: str,
        batch_size: int,
        rate: float,
        steps: Mapping[str, Sequence[float]],
        elapsed: float,
        fusion: dict[str, float],
    ) -> None:
        """Sum up the steps since the last row.

        Args:
            stage: its name.
            batch_size: pairs per step.
            rate: of learning, at the last step.
            steps: `MEASURED`, and ``compute``, seconds without the wait for pairs; a value per step. Values that are not finite
                are left out of the means.
            elapsed: seconds of these steps with everything around them.
            fusion: weights of the levels, by column name.
        """
        row: dict[str, Any] = {"step": self.step, "stage": stage, "pairs": self.step * batch_size, "lr": rate}
        for key in MEASURED:
            finite = [value for value in steps.get(key, []) if math.isfinite(value)]
            row[key] = float(np.mean(finite)) if finite else math.nan
        self.seconds += elapsed
        self.rows.append(
            row
            | fusion
            | {
                "pairs_per_second": len(steps["loss"]) * batch_size / elapsed,
                "data_share": 1 - sum(steps["compute"]) / elapsed,
                "peak_memory_mb": peak_memory_bytes() / 2**20,
                "seconds": self.seconds,
            }
        )


def tensorboard_writer(folder: Path) -> Watch:
    """Writes the last row of a log for TensorBoard.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("train.tensorboard needs TensorBoard; pip install tensorboard, or leave it off") from error
    writer = SummaryWriter(folder / "tensorboard")

    def write(log: pd.DataFrame) -> None:
        for key, value in log.iloc[-1].drop(["step", "stage"]).items():
            writer.add_scalar(str(key), float(value), int(log["step"].iloc[-1]))
        writer.flush()

    return write


def ignore_interrupts(worker: int = 0) -> None:
    """For worker processes: Ctrl-C reaches them too, but their parent decides when they end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
