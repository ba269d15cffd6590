"""Boxes that say which objects to follow: from text, from a mask, ordered by frame."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from e3sn_lib.data.types import VOID, read_ids
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import box_from_mask, box_xywh
from e3sn_lib.tracking.session import check_number
from e3sn_lib.tracking.tracker import FourNumbers, check_box
from e3sn_lib.tracking.video import VideoSource

Placed = dict[int, dict[int, FourNumbers]]
"""By number of frame, then of object: x, y, width and height."""


class Prompt(NamedTuple):
    """A box around an object."""

    box_frame_xywh: FourNumbers
    frame: int | None = None
    """Number of the frame; None: the first that is tracked."""
    number: int | None = None
    """Of the object; None: a new one, which gets the next number."""
    corrects: bool = False
    """Whether the object is known from an earlier frame."""


def prompt_from_text(text: str) -> Prompt:
    """Read ``x,y,w,h``, ``FRAME:x,y,w,h`` (a new object) or ``FRAME:ID=x,y,w,h`` (a correction);
    raises ValueError if it is something else."""
    found = re.fullmatch(r"(?:(\d+):(?:(\d+)=)?)?([^:=]*)", text.strip())
    if not found:
        raise ValueError(text)
    frame, number = (int(part) if part else None for part in found.groups()[:2])
    box = [float(part) for part in re.split(r"[,\s]+", found[3].strip())]
    return Prompt(box, frame, number, corrects=number is not None)


def prompts_from_mask(path: Path, size_wh: tuple[int, int]) -> list[Prompt]:
    """Return a box for each object in a mask of the first frame, a palette or grey PNG.

    Its ids are the objects' numbers, see `read_ids`. Raises InputError if it cannot be read, has
    another size or soft edges, or shows no object.
    """
    ids, (width, height) = read_ids(path), size_wh
    if ids.shape != (height, width):
        found = f"{ids.shape[1]}x{ids.shape[0]}"
        raise InputError(f"mask {path} is {found}, but the frames are {width}x{height}")
    numbers = set(np.unique(ids).tolist()) - {0, VOID}
    boxes = {number: box_from_mask(ids == number) for number in sorted(numbers)}
    if not boxes:
        raise InputError(f"mask {path} shows no object")
    return [Prompt(box_xywh(box), number=number) for number, box in boxes.items() if box]


def placed(prompts: Sequence[Prompt], source: VideoSource, frames: range) -> Placed:
    """Return the boxes by number of frame and of object. Raises InputError if there is no box, if
    a box cannot be used, or if its frame or object is not tracked."""
    if not prompts:
        raise InputError("no box is given, so there is nothing to follow")
    boxes: Placed = {}
    begins: dict[int, int] = {}
    for box, given_frame, given_number, corrects in sorted(prompts, key=lambda each: each.corrects):
        frame = frames.start if given_frame is None else given_frame
        number = max(begins, default=0) + 1 if given_number is None else given_number
        check_number(number)
        check_box(box, source.size[::-1], number)
        if frame not in frames:
            raise InputError(f"frame {frame} has a box, but it is not among the frames to track")
        if 0 < source.announced <= frame:
            last = source.announced - 1
            raise InputError(f"frame {frame} has a box, but the last frame is {last}")
        if corrects and begins.get(number, frame) >= frame:
            raise InputError(f"cannot correct object {number}: no box before frame {frame}")
        if number in boxes.setdefault(frame, {}):
            fault = f"object {number} has two boxes in frame {frame}"
            raise InputError(f"{fault}; give one, and masks with ids of their own")
        for other, taken in boxes[frame].items():
            if np.array_equal(box, taken):
                same = f"objects {other} and {number} have the same box in frame {frame}"
                raise InputError(f"{same}; give one of them")
        boxes[frame][number] = box
        begins[number] = min(begins.get(number, frame), frame)
    return boxes


def first_frames(boxes: Placed) -> dict[int, int]:
    """Return the frame of each object's first box."""
    return {number: frame for frame in sorted(boxes, reverse=True) for number in boxes[frame]}
