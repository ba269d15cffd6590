"""The outputs of a tracked video: masks, clips, a table, COCO annotations."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as PillowImage
from pycocotools import mask as coco_mask

from e3sn_lib.errors import InputError, printable
from e3sn_lib.files import atomic_path, write_mask
from e3sn_lib.geometry import Image
from e3sn_lib.tracking import FILES
from e3sn_lib.tracking.clip import LARGEST_SIDE, ClipWriter
from e3sn_lib.tracking.session import Seen
from e3sn_lib.tracking.video import Frame, VideoSource, overlay

FRINGE = 9
"""Pixels around an object that keep their colour in a cut-out: so scaling gives no dark rim."""
COLUMNS = "frame,name,seconds,object,x,y,width,height,mask_area,score,predicted_j,lost"
Write = Callable[[Frame, Seen], object]
"""Adds the results of one frame; raises OSError if the disk is full."""


@contextmanager
def open_outputs(kinds: Sequence[str], out: Path, source: VideoSource) -> Iterator[list[Write]]:
    """Open outputs of these kinds, keys of `FILES`, in a folder; complete them at the end. Raises
    InputError for frames that are too large for a clip."""
    clips = [kind for kind in kinds if Path(FILES[kind]).suffix in (".mp4", ".mov")]
    if clips and max(source.size) > LARGEST_SIDE:
        size, advice = "x".join(map(str, source.size)), f"leave out {' and '.join(clips)}"
        problem = f"frames are {size}, but a clip has up to {LARGEST_SIDE} pixels"
        raise InputError(f"{problem}; {advice}, as in --save masks,table")
    make: dict[str, Callable[[Path], AbstractContextManager[Write]]] = {
        "masks": lambda path: nullcontext(partial(_write_mask, path)),
        "cutout-png": lambda path: nullcontext(partial(_write_cut_out, path)),
        "table": _table,
        "coco": lambda path: _coco(path, source),
        "overlay": lambda path: _clip(ClipWriter(path, source, with_sound=True), overlay),
        "matte": lambda path: _clip(ClipWriter(path, source), matte),
        "cutout": lambda path: _clip(ClipWriter(path, source), cut_out),
    }
    with ExitStack() as stack:
        chosen = [(make[kind], name) for kind, name in FILES.items() if kind in kinds]
        yield [stack.enter_context(opened(out / name)) for opened, name in chosen]


def _write_mask(folder: Path, frame: Frame, seen: Seen) -> None:
    write_mask(folder / f"{frame.name}.png", seen.ids)


def _write_cut_out(folder: Path, frame: Frame, seen: Seen) -> None:
    with atomic_path(folder / f"{frame.name}.png") as temporary:
        PillowImage.fromarray(cut_out(frame.image, seen.ids)).save(temporary)


@contextmanager
def _clip(clip: ClipWriter, draw: Callable[[Image, Image], Image]) -> Iterator[Write]:
    """Write a clip whose frames are drawn by a function of frame and ids."""
    with closing(clip):
        yield lambda each, seen: clip.write(draw(each.image, seen.ids), each.seconds, each.duration)


@contextmanager
def _table(path: Path) -> Iterator[Write]:
    """Write a CSV file with one row per frame and object."""

    def write(frame: Frame, seen: Seen) -> None:
        for number, (box, score, predicted_j, lost) in seen.objects.items():
            x1, y1, x2, y2 = box.round(2)
            place = (x1, y1, round(x2 - x1, 2), round(y2 - y1, 2))
            area = np.count_nonzero(seen.ids == number)
            known = (round(score, 4), round(predicted_j, 4), int(lost))
            name = printable(frame.name)  # it need not be text in any encoding
            seconds = f"{float(frame.seconds):.6f}"
            rows.writerow((frame.number, name, seconds, number, *place, area, *known))

    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS.split(","))
        yield write


@contextmanager
def _coco(path: Path, source: VideoSource) -> Iterator[Write]:
    """Write COCO annotations: an RLE mask per frame and visible object, with its `track_id`."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    width, height = source.size

    def write(frame: Frame, seen: Seen) -> None:
        in_cvat = f"frame_{frame.number:06d}.png"  # how CVAT calls the frames of a video file
        name = source.names[frame.number] if source.names else in_cvat
        images.append({"id": frame.number, "file_name": name, "width": width, "height": height})
        for number in seen.objects:
            run_lengths = coco_mask.encode(np.asfortranarray(seen.ids == number, dtype=np.uint8))
            if (area := int(coco_mask.area(run_lengths))) == 0:
                continue
            annotation = {
                "id": len(annotations) + 1,
                "image_id": frame.number,
                "category_id": 1,
                "iscrowd": 0,
                "area": area,
                "bbox": coco_mask.toBbox(run_lengths).tolist(),
                "segmentation": run_lengths | {"counts": run_lengths["counts"].decode()},
                "track_id": number,
                "attributes": {"track_id": number},  # where CVAT looks for it
            }
            annotations.append(annotation)

    yield write
    categories = [{"id": 1, "name": "object"}]
    content = {"categories": categories, "images": images, "annotations": annotations}
    path.write_text(json.dumps(content))


def matte(frame: Image, ids: Image) -> Image:
    """Return (H, W, 3): the objects white on black."""
    return np.repeat((ids > 0).astype(np.uint8)[..., None] * np.uint8(255), 3, axis=2)


def cut_out(frame: Image, ids: Image) -> Image:
    """Return (H, W, 4) RGBA: the objects on a transparent ground."""
    near = cv2.dilate((ids > 0).astype(np.uint8), np.ones((2 * FRINGE + 1,) * 2, np.uint8))
    alpha = (ids > 0).astype(np.uint8) * np.uint8(255)
    return np.dstack([frame * near[..., None], alpha])
