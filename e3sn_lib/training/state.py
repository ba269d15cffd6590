"""The state of a run on the disk: file names, checkpoint and log.

Files are written whole or not at all. A checkpoint is never read for a run with other settings.
"""

from __future__ import annotations

import math
import shutil
import signal
import zipfile
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
MEASURED = (
    *("loss", "cls", "loc", "mask", "mask_iou"),
    *("grad_backbone", "grad_location", "grad_mask", "grad_fusion"),
)
"""Columns of the log that are means over steps. They are NaN for what a stage does not train."""


def write_checkpoint(
    run_dir: Path, profile: Profile, precision: str, content: dict[str, Any], step: int
) -> None:
    """Replace a run's checkpoint.

    Args:
        run_dir: the run's folder.
        profile: the run's settings; they are saved too.
        precision: name of the number type that the run computes in, such as ``float32``.
        content: tensors and plain numbers. The state of torch's generator is added.
        step: for the message.

    Raises:
        InputError: it cannot be written. The checkpoint before it is kept.
    """
    path = run_dir / CHECKPOINT
    settings = {"profile": profile.to_dict(), "precision": precision}
    try:
        with atomic_path(path) as temporary:
            torch.save(settings | {"torch_rng": torch.get_rng_state()} | content, temporary)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError when it cannot write
        kept = "the one before it is kept" if path.is_file() else "there is none yet"
        raise InputError(
            f"cannot write the checkpoint of step {step}, {path}; {kept}. "
            "Free some disk space and start again"
        ) from error


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy the checkpoint of one folder to another, if there is one.

    Raises:
        InputError: it cannot be written. The target then keeps what it had.
    """
    if not (source / CHECKPOINT).is_file():
        return
    try:
        with atomic_path(target / CHECKPOINT) as temporary:
            shutil.copyfile(source / CHECKPOINT, temporary)
    except OSError as error:
        raise InputError(
            f"cannot copy {source / CHECKPOINT} to {target} ({error.strerror}); "
            "free some space there, or change train.backup"
        ) from error


def read_checkpoint(run_dir: Path, profile: Profile) -> dict[str, Any] | None:
    """Read a run's checkpoint and set torch's generator to its saved state.

    Returns:
        The content given to `write_checkpoint`, on the CPU, and ``precision``; None if there is no
        checkpoint.

    Raises:
        InputError: it is damaged, or of a run with other settings.
    """
    path = run_dir / CHECKPOINT
    if not path.is_file():
        return None
    try:
        # torch.save writes a checksum of every part, but torch.load does not compare it
        with zipfile.ZipFile(path) as archive:
            if changed := archive.testzip():
                raise zipfile.BadZipFile(changed)
        content = torch.load(path, map_location="cpu", weights_only=True)
        settings = content["profile"]
    except Exception as error:  # bytes that have changed may raise anything
        raise InputError(
            f"{path} is damaged or no checkpoint of this project; delete it to train from the start"
        ) from error
    if training_settings(profile_from_dict(settings)) != training_settings(profile):
        raise InputError(
            f"{path} belongs to a run with other settings; choose another run folder or delete it"
        )
    torch.set_rng_state(content["torch_rng"])
    return content


@dataclass
class RunState:
    """What a checkpoint holds beside the weights and the optimiser: counts and the log."""

    step: int = 0
    seconds: float = 0.0
    replaced: int = 0
    """Pairs drawn again because of a damaged file."""
    redrawn: int = 0
    """Draws again because an object was absent or too small."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of ``log.csv``."""

    def add_row(
        self,
        stage: str,
        batch_size: int,
        rate: float,
        steps: Sequence[Mapping[str, float]],
        elapsed: float,
        fusion: dict[str, float],
    ) -> None:
        """Add a row to the log: the means over the steps since the row before.

        Args:
            stage: its name.
            batch_size: pairs per step.
            rate: of learning, at the last step.
            steps: what each step measured: some of `MEASURED`, and ``compute``, its seconds without
                the wait for pairs. Values that are not finite are left out of the means.
            elapsed: seconds of these steps, waiting included.
            fusion: weights of the levels, by column name.
        """
        row: dict[str, Any] = {
            "step": self.step, "stage": stage, "pairs": self.step * batch_size, "lr": rate
        }  # fmt: skip
        for name in MEASURED:
            finite = [step[name] for step in steps if math.isfinite(step.get(name, math.nan))]
            row[name] = float(np.mean(finite)) if finite else math.nan
        self.seconds += elapsed
        row |= fusion | {
            "pairs_per_second": len(steps) * batch_size / elapsed,
            "data_share": 1 - sum(step["compute"] for step in steps) / elapsed,
            "peak_memory_mb": peak_memory_bytes() / 2**20,
            "seconds": self.seconds,
        }
        self.rows.append(row)


def tensorboard_writer(folder: Path) -> Watch:
    """Return a function that writes the last row of a log for TensorBoard.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "train.tensorboard needs TensorBoard; pip install tensorboard, or leave it off"
        ) from error
    writer = SummaryWriter(folder / "tensorboard")

    def write(log: pd.DataFrame) -> None:
        for key, value in log.iloc[-1].drop(["step", "stage"]).items():
            writer.add_scalar(str(key), float(value), int(log["step"].iloc[-1]))
        writer.flush()

    return write


def ignore_interrupts(worker: int = 0) -> None:
    """Ignore Ctrl-C in a worker process: it comes here too, but the parent ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
