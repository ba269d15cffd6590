"""What the readers return: videos to evaluate on, tracks (frames of one object) to train on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from e3sn_lib.errors import InputError
from e3sn_lib.files import read_image, read_mask
from e3sn_lib.geometry import Box, is_far

MANY_IDS = 32
"""No video has more objects; larger values of a grey mask are levels of grey, not ids."""
VOID = 255
"""Value of the pixels of a mask of ids that belong to no object; in DAVIS-2016 it is the object."""


def read_ids(path: Path) -> NDArray[np.uint8]:
    """Return a mask of object ids, (H, W) uint8, in which 255 is void.

    A mask of black and white, or of black and one grey above `MANY_IDS`, shows object 1. Raises
    InputError as `read_mask`, or if grey values are no ids but soft edges or noise of a JPEG.
    """
    ids = read_mask(path)
    with Image.open(path) as image:
        is_palette = image.mode == "P"
    values = np.unique(ids[ids > 0]).tolist()
    if len(values) == 1 and values[0] > (VOID - 1 if is_palette else MANY_IDS):
        return (ids > 0).astype(np.uint8)
    numbers = [value for value in values if value != VOID]
    # beside 255 as void, ids are 1, 2, ... without gaps; else 255 is a level of grey
    has_gaps = VOID in values and numbers != list(range(1, len(numbers) + 1))
    if not is_palette and (max(numbers, default=0) > MANY_IDS or has_gaps):
        fault = f"has {len(values)} values up to {values[-1]}: soft edges, or a JPEG's noise"
        remedy = "save a PNG of black and white, or of object ids 1, 2, ..."
        raise InputError(f"mask {path} {fault}; {remedy}")
    return ids


def shows_one_object(path: Path) -> bool:
    """Return whether `read_ids` changes a mask: it has one value above 0, which is no id, as in
    DAVIS-2016. Raises the errors of `read_ids`."""
    return not np.array_equal(read_ids(path), read_mask(path))


class MaskSource(Protocol):
    """One object's mask in one image, read when it is needed."""

    def read(self) -> NDArray[np.bool_]:
        """Return the mask, (H, W) bool; raises InputError if it cannot be read."""


@dataclass(frozen=True)
class PngMask:
    """One object in a mask file, of a kind of ``mask_kind``."""

    path: Path
    object_id: int = 0
    """0: all ids above zero are the object (DAVIS-2016)."""
    kind: str = "ids"

    def read(self) -> NDArray[np.bool_]:
        """Return the object's pixels, (H, W) bool; raises InputError as `read_mask`, or if a binary
        mask holds object numbers."""
        mask = read_mask(self.path)
        if self.kind == "trimap":
            return _inside_border(mask)
        if self.kind == "binary" and (highest := mask.max(initial=0)) > 1:  # else 0 and 1
            if highest <= MANY_IDS:
                fault = f"has values up to {highest}, which are no grey levels"
                raise InputError(f"mask {self.path} {fault}; its mask_kind is ids or trimap")
            return mask > 127
        return mask == self.object_id if self.object_id else mask > 0


def _inside_border(trimap: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the object (1) of a trimap, with the border pixels (3) nearer to it than to the
    background (2): the outline runs inside the border (Oxford-IIIT Pet)."""
    other, inner = ((trimap != value).astype(np.uint8) for value in (1, 2))
    if other.all() or inner.all():  # without one of the two there is no distance to it
        return trimap == 1
    to_object, to_background = (cv2.distanceTransform(x, cv2.DIST_L2, 5) for x in (other, inner))
    return (trimap == 1) | ((trimap == 3) & (to_object <= to_background))


@dataclass(frozen=True)
class TrackFrame:
    """One image with one object."""

    image: Path
    mask: MaskSource | None = None
    box_frame_xyxy: Box | None = None
    """None: it is taken from the mask."""
    alike_frame_xyxy: tuple[Box, ...] = ()
    """Boxes of the other objects of the same category in this image, where the set knows them."""
    min_area: float = 0.0
    """A mask of fewer pixels reads as empty. Measuring all masks in advance takes minutes."""

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Return the image, (H, W, 3) RGB uint8, and its mask, (H, W) bool, if it has one; raises
        InputError if one of them cannot be read, or they differ in size."""
        image, mask = read_image(self.image), self.mask.read() if self.mask else None
        height, width = image.shape[:2]
        if mask is not None and mask.shape != image.shape[:2]:
            size = f"{mask.shape[1]}x{mask.shape[0]}"
            turned = mask.shape == (width, height)
            why = "; is it a photo with a rotation noted in it (EXIF)?" if turned else ""
            raise InputError(f"mask of {self.image} is {size}, its image {width}x{height}{why}")
        x1, y1, x2, y2 = self.box_frame_xyxy or (0, 0, width, height)
        if is_far((x1, y1, x2, y2), width, height) or min(x2, y2, width - x1, height - y1) <= 0:
            box = f"box {x1:g},{y1:g} to {x2:g},{y2:g}"
            raise InputError(f"{box} of {self.image} lies outside its {width}x{height} pixels")
        if mask is not None and np.count_nonzero(mask) < self.min_area:
            mask = np.zeros_like(mask)
        return image, mask


@dataclass(frozen=True)
class Track:
    """The frames that show one object, in order of time; a still image is a track of one frame."""

    name: str
    frames: tuple[TrackFrame, ...]


@dataclass(kw_only=True)
class Findings:
    """What a reader found in a data set besides the tracks."""

    left_out: Counter[str] = field(default_factory=Counter)
    """How many, by reason."""
    faults: dict[str, str] = field(default_factory=dict)
    """The first that was left out, by reason, where the data are at fault."""
    missing: list[str] = field(default_factory=list)
    """Files that the annotations name but that are not on the disk; an index has the first few."""
    categories: list[int] = field(default_factory=list)
    """The category of each track; empty if the set knows none."""

    def leave_out(self, reason: str, fault: str | None = None, missing: str = "") -> None:
        """Count what is left out; `fault` names it if a file is at fault, `missing` a lost file."""
        self.left_out[reason] += 1
        if fault is not None:
            self.faults.setdefault(reason, fault)
        if missing:
            self.missing.append(missing)

    def reasons(self) -> str:
        """Return in one line what was left out, why, and what is missing."""
        lines = [
            f"{why}: {count}" + (f" (the first: {self.faults[why]})" if why in self.faults else "")
            for why, count in self.left_out.items()
        ]
        return "; ".join(lines + ([f"missing: {', '.join(self.missing)}"] if self.missing else []))


@dataclass
class TrackSet(Findings):
    """The tracks of one data set, and what was left out of it and why."""

    name: str
    tracks: Sequence[Track]


@dataclass(frozen=True)
class Video:
    """A video with masks of object ids, to evaluate on."""

    name: str
    frame_paths: tuple[Path, ...]
    mask_paths: tuple[Path, ...]
    merge_ids: bool = False
    """True: all ids above zero are one object (DAVIS-2016)."""

    def __len__(self) -> int:
        return len(self.frame_paths)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Return one frame, (H, W, 3) RGB uint8; raises InputError if it cannot be read."""
        return read_image(self.frame_paths[index])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return the object ids of one frame, (H, W) uint8; raises InputError as `read_mask`."""
        ids = read_mask(self.mask_paths[index])
        return (ids > 0).astype(np.uint8) if self.merge_ids else ids

    def object_ids(self) -> list[int]:
        """Return ids 1..K; K is the highest id of the first mask that is not void (255), as in the
        official DAVIS evaluator. Raises InputError if the first mask is empty."""
        first = self.mask(0)
        highest = int(first[first < VOID].max(initial=0))
        if highest == 0:
            first_mask = self.mask_paths[0]
            raise InputError(f"sequence {self.name}: the first mask {first_mask} shows no object")
        return list(range(1, highest + 1))
