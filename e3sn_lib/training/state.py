"""The state of a run on the disk: file names, checkpoint and log.

Files are written whole or not at all. A checkpoint is never read for a run with other settings.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError, is_lack_of_memory
from e3sn_lib.files import atomic_path, write_csv
from e3sn_lib.profiles.identity import training_settings
from e3sn_lib.profiles.loading import profile_from_dict

if TYPE_CHECKING:
    import pandas as pd

CHECKPOINT = "checkpoint.pt"
ENVIRONMENT = "env.json"
"""Where, when and by which code a run began and was resumed."""
FINAL = "model.safetensors"
LOCK = "lock"
Watch = Callable[["pd.DataFrame"], None]
"""Gets the log so far whenever a row is added."""
MEASURED = (
    *("loss", "cls", "loc", "mask", "mask_iou"),
    *("grad_backbone", "grad_location", "grad_mask", "grad_fusion"),
)
"""Columns of the log that are means over steps. They are NaN for what a stage does not train."""


def write_checkpoint(run_dir: Path, content: dict[str, Any]) -> None:
    """Replace a run's checkpoint by tensors and plain values; raises InputError if it cannot be
    written. The checkpoint before it is then kept."""
    path = run_dir / CHECKPOINT
    try:
        with atomic_path(path) as temporary:
            torch.save(content, temporary)
            _flush(temporary)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError when it cannot write
        kept = "the one before it is kept" if path.is_file() else "there is none yet"
        fault = f"cannot write the checkpoint of step {content['state']['step']}, {path}; {kept}"
        raise InputError(f"{fault}. Free some disk space and start again") from error


def _flush(path: Path) -> None:
    """Wait until a file is on the disk; else a power cut could leave an empty one."""
    with path.open("r+b") as file:  # Windows flushes only files that may be written
        os.fsync(file.fileno())


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy the checkpoint of one folder to another, if there is one, and the record of how the run
    began; raises InputError if they cannot be written. The target then keeps its checkpoint."""
    if not (source / CHECKPOINT).is_file():
        return
    try:
        for name in (ENVIRONMENT, CHECKPOINT):
            if (source / name).is_file():
                with atomic_path(target / name) as temporary:
                    shutil.copyfile(source / name, temporary)
                    _flush(temporary)
    except OSError as error:
        fault = f"cannot copy {source / CHECKPOINT} to {target} ({error.strerror})"
        raise InputError(f"{fault}; free some space there, or change train.backup") from error


def read_checkpoint(run_dir: Path, profile: Profile) -> dict[str, Any] | None:
    """Return the content given to `write_checkpoint`, on the CPU; None if there is no checkpoint.
    Raises InputError if it is damaged, or of a run with other settings."""
    path = run_dir / CHECKPOINT
    if not path.is_file():
        return None
    with damage_of(run_dir):
        # torch.save writes a checksum of every part, but torch.load does not compare it
        with zipfile.ZipFile(path) as archive:
            if changed := archive.testzip():
                raise zipfile.BadZipFile(changed)
        content = torch.load(path, map_location="cpu", weights_only=True)
        own = profile_from_dict(content["profile"])
    if training_settings(own) != training_settings(profile):
        fault = f"{path} belongs to a run with other settings"
        raise InputError(f"{fault}; choose another run folder or delete it")
    return dict(content)


@contextmanager
def damage_of(run_dir: Path) -> Iterator[None]:
    """Turn whatever a damaged checkpoint, or that of another version, raises into an InputError."""
    try:
        yield
    except Exception as error:  # bytes that have changed may raise anything
        if isinstance(error, PermissionError) or is_lack_of_memory(error):
            raise  # the checkpoint may still be good
        fault = f"{run_dir / CHECKPOINT} is damaged or no checkpoint of this version"
        cause = f"{type(error).__name__}: {shorten(str(error), 100)}"
        raise InputError(f"{fault} ({cause}); delete it to train from the start") from error


@dataclass
class RunState:
    """What a checkpoint holds beside the weights and the optimiser: counts and the log."""

    step: int = 0
    pairs_before: int = 0
    """Pairs seen by the model that the run began with (``train.init_weights``)."""
    seconds: float = 0.0
    replaced: int = 0
    """Draws that met a damaged file, and were made again."""
    redrawn: int = 0
    """Draws again because an object was absent or too small."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of ``log.csv``."""


def write_log(run_dir: Path, state: RunState) -> pd.DataFrame:
    """Write ``log.csv`` and return the log."""
    import pandas as pd

    log = pd.DataFrame(state.rows)
    write_csv(run_dir / "log.csv", log)
    return log


def tensorboard_writer(folder: Path) -> Watch:
    """Return a writer of a log's last row for TensorBoard; raises InputError if that is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        remedy = "pip install tensorboard, or leave it off"
        raise InputError(f"train.tensorboard needs TensorBoard; {remedy}") from error
    writer = SummaryWriter(folder / "tensorboard")

    def write(log: pd.DataFrame) -> None:
        for key, value in log.iloc[-1].drop(["step", "stage"]).items():
            writer.add_scalar(str(key), float(value), int(log["step"].iloc[-1]))
        writer.flush()

    return write
