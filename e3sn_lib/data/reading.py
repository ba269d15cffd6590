"""What the readers share."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e3sn_lib.data.types import MaskSource
from e3sn_lib.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class LargeMask:
    """A mask that reads as empty where it has fewer than `min_area` pixels.

    An image file says how large its object is only when it is read, and reading all of them at the start would take minutes.
    """

    source: MaskSource
    min_area: float

    def read(self) -> NDArray[np.bool_]:
        mask = self.source.read()
        return mask if np.count_nonzero(mask) >= self.min_area else np.zeros_like(mask)


def at_least(source: MaskSource, min_area: float) -> MaskSource:
    """`source` itself where every area is welcome, else as a `LargeMask`."""
    return LargeMask(source, min_area) if min_area > 1 else source


def files_by_stem(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """The files of a folder by name without suffix, in order; hidden files are no data. An absent folder has none."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    found = (folder / name for name in names if not name.startswith(".") and name.lower().endswith(suffixes))
    return {path.stem: path for path in found}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: the file cannot be read, is no JSON or no object.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged or no JSON ({error}); copy or download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content


def listed(names: list[str], most: int = 5) -> str:
    """Names for a message: all of a few, the first of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
