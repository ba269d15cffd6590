"""What a tracked video is kept as: masks, clips, a table, COCO annotations."""

from __future__ import annotations

import csv
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import cv2
import numpy as np
from PIL import Image as PillowImage
from pycocotools import mask as coco_mask

from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path, write_mask
from e3sn_lib.tracking import FILES
from e3sn_lib.tracking.clip import LARGEST_SIDE, ClipWriter
from e3sn_lib.tracking.session import Seen
from e3sn_lib.tracking.video import Frame, Image, VideoSource, overlay

FRINGE = 9
"""Pixels around an object that keep their colour in a cut-out: scaled, it gets no dark rim."""


def open_outputs(kinds: Sequence[str], out: Path, source: VideoSource) -> list[Output]:
    """Return empty outputs of these kinds, keys of `FILES`, in a folder.

    Raises:
        InputError: an unknown kind, or frames that are too large for a clip.
    """
    if unknown := sorted(set(kinds) - set(FILES)):
        raise InputError(f"cannot save '{unknown[0]}'; choose from {', '.join(FILES)}")
    clips = [kind for kind in kinds if Path(FILES[kind]).suffix in (".mp4", ".mov")]
    if clips and max(source.size) > LARGEST_SIDE:
        width, height = source.size
        raise InputError(
            f"frames are {width}x{height}, but clips end at {LARGEST_SIDE} pixels; "
            f"leave out {' and '.join(clips)}, as in --save masks,table"
        )
    make: dict[str, Callable[[Path], Output]] = {
        "masks": lambda path: ImageFolder(path, lambda path, _, ids: write_mask(path, ids)),
        "cutout-png": lambda path: ImageFolder(path, _write_cut_out),
        "table": Table,
        "coco": lambda path: Coco(path, source),
        "overlay": lambda path: Clip(ClipWriter(path, source, with_sound=True), overlay),
        "matte": lambda path: Clip(ClipWriter(path, source), matte),
        "cutout": lambda path: Clip(ClipWriter(path, source), cut_out),
    }
    return [make[kind](out / name) for kind, name in FILES.items() if kind in kinds]


class Output(ABC):
    """One file or folder that grows frame by frame."""

    path: Path
    count: int = 0
    """Frames written."""

    @abstractmethod
    def write(self, frame: Frame, seen: Seen) -> None:
        """Add what one frame gives; raise OSError if the disk is full."""

    @abstractmethod
    def close(self) -> None:
        """Complete it; raise OSError if something of it is missing."""

    def release(self) -> None:  # noqa: B027
        """Close what is open, whether complete or not."""

    def rescue(self) -> bool:
        """Complete it on a full disk, or else delete it; return whether it could be completed."""
        try:
            self.close()
        except OSError:
            self.release()
            self.path.unlink()
            return False
        return self.count > 0


class ImageFolder(Output):
    """One PNG per frame, under the frame's name, written by a function of path, frame and ids."""

    def __init__(self, path: Path, write: Callable[[Path, Image, Image], None]) -> None:
        self.path, self._write = path, write

    def write(self, frame: Frame, seen: Seen) -> None:
        """Write one image."""
        self._write(self.path / f"{frame.name}.png", frame.image, seen.ids)
        self.count += 1

    def close(self) -> None:
        """Count the images."""
        if (found := len(list(self.path.glob("*.png")))) != self.count:
            raise OSError(f"{self.path.name} holds {found} of {self.count} images")


class Clip(Output):
    """A clip whose frames are drawn by a function of frame and ids."""

    def __init__(self, writer: ClipWriter, draw: Callable[[Image, Image], Image]) -> None:
        self.path, self.writer, self._draw = writer.path, writer, draw

    def write(self, frame: Frame, seen: Seen) -> None:
        """Write one frame."""
        self.writer.write(self._draw(frame.image, seen.ids), frame.seconds, frame.duration)
        self.count += 1

    def close(self) -> None:
        """Complete the clip and count its frames."""
        self.writer.close()

    @property
    def lost_sound(self) -> bool:
        """Whether the sound is incomplete."""
        return self.writer.sound is not None and self.writer.sound.damaged

    def release(self) -> None:
        """Close the clip."""
        self.writer.release()

    def rescue(self) -> bool:
        """Delete the clip, which needs more space to be completed."""
        self.release()
        self.path.unlink()
        return False


class Table(Output):
    """A CSV file with one row per frame and object."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # names of files need not be text in any encoding
        self._file = path.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        self._writer: csv.DictWriter[str] | None = None

    def write(self, frame: Frame, seen: Seen) -> None:
        """Write the rows of one frame; the first row gives the columns."""
        boxes = seen.boxes_frame_xyxy.round(2)
        known = zip(seen.numbers, boxes, seen.scores, seen.predicted_j, seen.lost, strict=True)
        for number, (x1, y1, x2, y2), score, predicted_j, lost in known:
            row = {
                "frame": frame.number,
                "name": frame.name,
                "seconds": f"{float(frame.seconds):.6f}",
                "object": number,
                "x": x1,
                "y": y1,
                "width": (x2 - x1).round(2),
                "height": (y2 - y1).round(2),
                "mask_area": int((seen.ids == number).sum()),
                "score": score.round(4),
                "predicted_j": predicted_j.round(4),
                "lost": int(lost),
            }
            if self._writer is None:
                self._writer = csv.DictWriter(self._file, list(row))
                self._writer.writeheader()
            self._writer.writerow(row)
        self.count += 1

    def close(self) -> None:
        """Write what is still in memory."""
        self._file.close()

    def release(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()


class Coco(Output):
    """COCO annotations: an RLE mask per frame and visible object, whose number is `track_id`."""

    def __init__(self, path: Path, source: VideoSource) -> None:
        self.path, self._source = path, source
        self._file = path.open("w")
        self._annotations = TemporaryFile("w+", dir=path.parent)  # noqa: SIM115
        self._annotated = 0
        self._file.write('{"categories": [{"id": 1, "name": "object"}],\n"images": [')

    def write(self, frame: Frame, seen: Seen) -> None:
        """Write one image with its annotations."""
        width, height = self._source.size
        # CVAT calls the frames of a video file so
        name = f"frame_{frame.number:06d}.png"
        if self._source.names:
            name = self._source.names[frame.number]
        image = {"id": frame.number, "file_name": name, "width": width, "height": height}
        self._add(self._file, self.count, image)
        self.count += 1
        for number in seen.numbers:
            if not (seen.ids == number).any():
                continue
            run_lengths = coco_mask.encode(np.asfortranarray(seen.ids == number, dtype=np.uint8))
            annotation = {
                "id": self._annotated + 1,
                "image_id": frame.number,
                "category_id": 1,
                "iscrowd": 0,
                "area": int(coco_mask.area(run_lengths)),
                "bbox": coco_mask.toBbox(run_lengths).tolist(),
                "segmentation": {
                    "size": run_lengths["size"],
                    "counts": run_lengths["counts"].decode(),
                },
                "track_id": number,
                "attributes": {"track_id": number},  # where CVAT looks for it
            }
            self._add(self._annotations, self._annotated, annotation)
            self._annotated += 1

    @staticmethod
    def _add(file: Any, before: int, entry: dict[str, Any]) -> None:
        file.write((",\n" if before else "\n") + json.dumps(entry))

    def close(self) -> None:
        """Put images and annotations together."""
        self._file.write('],\n"annotations": [')
        self._annotations.seek(0)
        shutil.copyfileobj(self._annotations, self._file)
        self._file.write("]}\n")
        self._file.close()

    def release(self) -> None:
        """Close both files."""
        for file in (self._file, self._annotations):
            with suppress(OSError):
                file.close()


def matte(frame: Image, ids: Image) -> Image:
    """Return (H, W, 3): the objects white on black."""
    return np.repeat((ids > 0).astype(np.uint8)[..., None] * np.uint8(255), 3, axis=2)


def cut_out(frame: Image, ids: Image) -> Image:
    """Return (H, W, 4) RGBA: the objects on a transparent ground."""
    near = cv2.dilate((ids > 0).astype(np.uint8), np.ones((2 * FRINGE + 1,) * 2, np.uint8))
    alpha = (ids > 0).astype(np.uint8) * np.uint8(255)
    return np.dstack([frame * near[..., None], alpha])


def _write_cut_out(path: Path, frame: Image, ids: Image) -> None:
    with atomic_path(path) as temporary:
        PillowImage.fromarray(cut_out(frame, ids)).save(temporary)
