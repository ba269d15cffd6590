"""Videos in and out: frames of a file or folder, overlays, and short clips that a browser plays without any further program."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path, read_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
Image = NDArray[np.uint8]
FRAME_RATE = 24.0
"""Frames per second of what has no rate of its own: a folder of images."""
OBJECT_COLOURS = ((0, 229, 200), (255, 122, 89), (255, 210, 63), (190, 140, 255), (86, 180, 233), (150, 220, 90))


def frame_names(source: Path) -> list[str] | None:
    """Names of a folder's images, in the order of the numbers in them; None for a video file, whose frames have numbers.

    Raises:
        InputError: nothing there, or a folder without images.
    """
    if source.is_file():
        return None
    if not source.is_dir():
        raise InputError(f"there is no video or folder of frames at {source}")
    names = sorted((path.name for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES), key=_as_counted)
    if not names:
        raise InputError(f"folder {source} has no images ({', '.join(IMAGE_SUFFIXES)})")
    return names


def _as_counted(name: str) -> list[tuple[int, str]]:
    """Sorts 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def read_frames(source: Path) -> Iterator[Image]:
    """Frames of a video file or of a folder of images, in order, (H, W, 3) RGB uint8, one in memory at a time.

    Raises:
        InputError: nothing there, no frame in it, or a frame that cannot be read.
    """
    names = frame_names(source)
    if names is not None:
        yield from (read_image(source / name) for name in names)
        return
    with _without_remark():
        video = cv2.VideoCapture(str(source))
        read, frame = video.read()
    if not read:
        raise InputError(f"{source} is no video that OpenCV can read; convert it, or give a folder of images")
    try:
        while read:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)  # type: ignore[misc]
            read, frame = video.read()
    finally:
        video.release()


def frame_rate(source: Path) -> float:
    """Frames per second of a video file; `FRAME_RATE` for a folder, or a file that does not say."""
    rate = _property(source, cv2.CAP_PROP_FPS)
    return rate if 1 <= rate <= 240 else FRAME_RATE


def announced_frames(source: Path) -> int:
    """How many frames a video file says it has, which may be more than can be read; 0 for a folder, or a file that does not say."""
    return max(int(_property(source, cv2.CAP_PROP_FRAME_COUNT)), 0)


def _property(source: Path, which: int) -> float:
    if not source.is_file():
        return 0.0
    with _without_remark():
        video = cv2.VideoCapture(str(source))
        value = video.get(which)
        video.release()
    return value


def object_colour(number: int) -> tuple[int, int, int]:
    """RGB of the object with this id, 1 and up; brighter than DAVIS's palette, which is hard to see on dark frames."""
    return OBJECT_COLOURS[(number - 1) % len(OBJECT_COLOURS)]


def overlay(frame: Image, ids: Image, opacity: float = 0.45) -> Image:
    """Objects (H, W) tinted and outlined over a frame."""
    shown = frame.copy()
    for number in np.unique(ids[ids > 0]):
        colour, mask = object_colour(int(number)), ids == number
        shown[mask] = ((1 - opacity) * frame[mask] + opacity * np.array(colour)).astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, outlines, -1, colour, max(round(frame.shape[1] / 600), 1), cv2.LINE_AA)
    return shown


def write_clip(path: Path, frames: Iterable[Image], fps: float = FRAME_RATE, codec: str = "VP90") -> int:
    """Write RGB frames as WebM, which OpenCV encodes itself and browsers play; returns how many.

    Of an odd width or height the last column or row is left out.

    Args:
        path: of the clip.
        frames: (H, W, 3) RGB uint8, of one size.
        fps: frames per second.
        codec: ``VP90`` makes small files, ``VP80`` twice as large ones in a third of the time.

    Raises:
        InputError: no frame, or this OpenCV lacks the encoder.
    """
    count = 0
    with atomic_path(path) as temporary:
        writer: cv2.VideoWriter | None = None
        for frame in frames:
            if writer is None:
                with _without_remark():
                    writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter_fourcc(*codec), fps, frame.shape[1::-1])  # type: ignore[attr-defined]
                if not writer.isOpened():
                    raise InputError(f"cannot write {path}: this OpenCV has no {codec} encoder; install opencv-python from PyPI")
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1
        if writer is None:
            raise InputError(f"cannot write {path}: there are no frames")
        writer.release()
    return count


@contextmanager
def _without_remark() -> Iterator[None]:
    """FFmpeg remarks on standard error that WebM has no tag "VP90" (and writes the right one), or how a file is damaged."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
