"""What the readers of all layouts use: masks of a least size, files by name, JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e3sn_lib.data.types import MaskSource
from e3sn_lib.errors import InputError
from e3sn_lib.files import IMAGE_SUFFIXES, file_names, read_bytes

LARGEST_JSON = 2**32
"""Bytes; the annotations of LVIS have 1.1 GB."""


@dataclass(frozen=True, slots=True)
class LargeMask:
    """A mask that reads as empty if it has fewer than `min_area` pixels.

    Reading all masks at the start, to know how large they are, would take minutes.
    """

    source: MaskSource
    min_area: float

    def read(self) -> NDArray[np.bool_]:
        """Return the mask (H, W) bool; raises InputError as the source does."""
        mask = self.source.read()
        return mask if np.count_nonzero(mask) >= self.min_area else np.zeros_like(mask)


def at_least(source: MaskSource, min_area: float) -> MaskSource:
    """Return `source` as a `LargeMask`, or itself if every area will do."""
    return LargeMask(source, min_area) if min_area > 1 else source


def files_by_stem(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Return the files of a folder by name without suffix, in order; an absent folder has none.

    Raises:
        InputError: two files differ in their suffix alone.
    """
    found: dict[str, Path] = {}
    for path in (folder / name for name in file_names(folder, suffixes)):
        other = found.setdefault(path.stem, path)
        if other != path:
            raise InputError(f"{folder} has {other.name} and {path.name} for one frame; keep one")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        InputError: the file cannot be read, is no JSON or holds no object.
    """
    try:
        content = json.loads(read_bytes(path, "annotations", LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        reason = f"damaged or no JSON ({error})"
        raise InputError(f"{path} is {reason}; copy or download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; copy or download it again")
    return content
