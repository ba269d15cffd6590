"""Videos in and out: frames of a file or folder, overlays, and short clips that a browser plays without any further program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from e3sn_lib.errors import InputError
from e3sn_lib.files import DAVIS_PALETTE, atomic_path, read_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
Image = NDArray[np.uint8]


def frame_names(source: Path) -> list[str] | None:
    """Names of a folder's images, in order; None for a video file, whose frames have numbers.

    Raises:
        InputError: nothing there, or a folder without images.
    """
    if source.is_file():
        return None
    if not source.is_dir():
        raise InputError(f"there is no video or folder of frames at {source}")
    names = sorted(path.name for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        raise InputError(f"folder {source} has no images ({', '.join(IMAGE_SUFFIXES)})")
    return names


def read_frames(source: Path) -> Iterator[Image]:
    """Frames of a video file or of a folder of images, in order, (H, W, 3) RGB uint8, one in memory at a time.

    Raises:
        InputError: nothing there, no frame in it, or a frame that cannot be read.
    """
    names = frame_names(source)
    if names is not None:
        yield from (read_image(source / name) for name in names)
        return
    video = cv2.VideoCapture(str(source))
    try:
        count = 0
        while True:
            read, frame = video.read()
            if not read:
                break
            count += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)  # type: ignore[misc]
        if count == 0:
            raise InputError(f"{source} is no video that OpenCV can read; convert it, or give a folder of images")
    finally:
        video.release()


def overlay(frame: Image, ids: Image, opacity: float = 0.5) -> Image:
    """Objects in DAVIS's colours over a frame, with outlines."""
    colours = np.array(DAVIS_PALETTE, np.uint8).reshape(-1, 3)
    shown = frame.copy()
    objects = ids > 0
    shown[objects] = ((1 - opacity) * frame[objects] + opacity * colours[ids[objects]]).astype(np.uint8)
    for number in np.unique(ids[objects]):
        outlines, _ = cv2.findContours((ids == number).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, outlines, -1, tuple(int(value) for value in colours[number]), 1, cv2.LINE_AA)
    return shown


def write_clip(path: Path, frames: Iterable[Image], fps: float = 24.0) -> int:
    """Write RGB frames as VP9 WebM, which OpenCV encodes itself and browsers play; returns how many.

    Raises:
        InputError: no frame, or this OpenCV cannot encode VP9.
    """
    count = 0
    with atomic_path(path) as temporary:
        writer: cv2.VideoWriter | None = None
        for frame in frames:
            if writer is None:
                writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter_fourcc(*"VP90"), fps, frame.shape[1::-1])  # type: ignore[attr-defined]
                if not writer.isOpened():
                    raise InputError(f"cannot write {path}: this OpenCV has no VP9 encoder; install opencv-python from PyPI")
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1
        if writer is None:
            raise InputError(f"cannot write {path}: there are no frames")
        writer.release()
    return count
