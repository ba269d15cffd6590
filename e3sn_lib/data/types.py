"""What every reader yields: a *sequence* to evaluate on, a *track* (the frames of one object) to train on."""

from __future__ import annotations

from collections import Counter, abc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e3sn_lib.errors import InputError
from e3sn_lib.files import read_image, read_mask
from e3sn_lib.geometry import Box

VOID = 255
"""Pixels of a mask of ids that belong to no object; in DAVIS-2016 the object itself."""


class MaskSource(Protocol):
    """One object's mask in one image, read when it is needed."""

    def read(self) -> NDArray[np.bool_]:
        """(H, W) bool."""


@dataclass(frozen=True)
class PngMask:
    """One object in a PNG of object ids."""

    path: Path
    object_id: int = 0
    """0: every id above zero (DAVIS-2016: one object, ids merged)."""

    def read(self) -> NDArray[np.bool_]:
        ids = read_mask(self.path)
        return ids == self.object_id if self.object_id else ids > 0


@dataclass(frozen=True)
class TrackFrame:
    """One image with one object."""

    image: Path
    mask: MaskSource | None = None
    box_frame_xyxy: Box | None = None
    """None: to be taken from the mask."""

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """(H, W, 3) RGB uint8 and, where there is one, the mask, (H, W) bool.

        Raises:
            InputError: either cannot be read, or they differ in size.
        """
        image, mask = read_image(self.image), self.mask.read() if self.mask else None
        if mask is not None and mask.shape != image.shape[:2]:
            height, width = image.shape[:2]
            raise InputError(f"mask of {self.image} is {mask.shape[1]}x{mask.shape[0]}, its image {width}x{height}")
        return image, mask


@dataclass(frozen=True)
class Track:
    """The frames that show one object, in order of time; a still image is a track of one frame."""

    name: str
    frames: tuple[TrackFrame, ...]


@dataclass(frozen=True)
class TrackSet:
    """The tracks of one data set, and what was left out of it and why."""

    name: str
    tracks: abc.Sequence[Track]
    left_out: Counter[str] = field(default_factory=Counter)
    missing: tuple[str, ...] = ()
    """The first few files that the annotations name and the disk lacks."""


@dataclass(frozen=True)
class Sequence:
    """A video with object ids, to evaluate on."""

    name: str
    frame_paths: tuple[Path, ...]
    mask_paths: tuple[Path, ...]
    merge_ids: bool = False
    """True: all ids above zero are one object (DAVIS-2016)."""

    def __len__(self) -> int:
        return len(self.frame_paths)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) RGB uint8."""
        return read_image(self.frame_paths[index])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """(H, W) uint8 object ids.

        Raises:
            InputError: the mask cannot be read.
        """
        ids = read_mask(self.mask_paths[index])
        return (ids > 0).astype(np.uint8) if self.merge_ids else ids

    def object_ids(self) -> list[int]:
        """Ids 1..K, where K is the highest id of the first mask, void (255) aside (the official evaluator's rule).

        Raises:
            InputError: the first mask is empty.
        """
        first = self.mask(0)
        highest = int(first[first < VOID].max(initial=0))
        if highest == 0:
            raise InputError(f"sequence {self.name}: the first mask {self.mask_paths[0]} shows no object to follow")
        return list(range(1, highest + 1))
