"""A run's last good state on disk: written whole or not at all, and never taken for another run's."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path
from e3sn_lib.identity import training_settings
from e3sn_lib.loading import profile_from_dict

CHECKPOINT = "checkpoint.pt"


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
