"""COCO instances in the official layout: a folder of images and one JSON of polygons and run lengths."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from e3sn_lib.data.index import Findings, indexed_tracks
from e3sn_lib.data.reading import files_by_stem, read_json
from e3sn_lib.data.types import Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import Box

CATEGORY = 6
"""Place of the category in a packed record."""


@dataclass(frozen=True, slots=True)
class CocoMask:
    """One object as compressed run lengths: a few hundred bytes instead of the image's pixels or a list of numbers."""

    height: int
    width: int
    counts: bytes

    def read(self) -> NDArray[np.bool_]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools hands numpy an array in its older way
            mask: NDArray[np.uint8] = run_lengths.decode({"size": [self.height, self.width], "counts": self.counts})
        return mask.astype(bool)


def coco_tracks(images: Path, annotations: Path, min_area: float = 0.0, hold_out: float = 0.0, held_out: bool = False) -> TrackSet:
    """Return one track of one frame for each annotated object that is no crowd, in the order of the annotations.

    Args:
        images: folder of the image files.
        annotations: ``instances_*.json``.
        min_area: in pixels, by the annotation's own ``area``; smaller objects are left out.
        hold_out: share of the images, 0 to 1, that is kept out of training; an image's name alone decides.
        held_out: True returns the objects of those images instead of the others.

    Raises:
        InputError: the JSON cannot be read or lacks a key, or none of its images is on the disk.
    """
    parse = partial(_parse, images, annotations, min_area, (hold_out, held_out))
    key = (images, annotations, min_area, hold_out, held_out)
    return indexed_tracks("coco", key, (annotations, images), parse, partial(_track, images), itemgetter(CATEGORY))


def is_held_out(file_name: str, share: float) -> bool:
    """Say whether an image is among the share that training does not see; its name alone decides, on every machine."""
    return int(hashlib.sha256(file_name.encode()).hexdigest()[:8], 16) < share * 2**32


def _parse(images: Path, annotations: Path, min_area: float, hold_out: tuple[float, bool], findings: Findings) -> Iterator[Any]:
    """Yield a record per object; other objects of its image and category, also small ones, are its look-alikes."""
    content = read_json(annotations)
    share, wanted = hold_out
    left_out = findings.left_out
    try:
        entries = {entry["id"]: entry for entry in content["images"]}
        on_disk = {path.name for path in files_by_stem(images).values()}
        if not any(entry["file_name"] in on_disk for entry in entries.values()):
            raise InputError(f"none of the {len(entries)} images of {annotations} is in {images}; unpack the images there")
        alike: dict[tuple[int, int], list[tuple[int, Box]]] = defaultdict(list)
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                alike[annotation["image_id"], annotation["category_id"]].append((annotation["id"], _corners(annotation["bbox"])))
        for annotation in content["annotations"]:
            entry = entries.get(annotation["image_id"])
            if annotation.get("iscrowd"):
                left_out["crowd"] += 1
            elif entry is None or entry["file_name"] not in on_disk:
                left_out["image not on disk"] += 1
                findings.missing.append(entry["file_name"] if entry else f"image {annotation['image_id']}")
            elif is_held_out(entry["file_name"], share) != wanted:
                left_out["held out" if not wanted else "not held out"] += 1
            elif annotation["area"] < min_area:
                left_out[f"smaller than {min_area:g} px"] += 1
            elif (mask := _mask(annotation["segmentation"], entry)) is None:
                left_out["polygon of less than three points"] += 1
            else:
                category = annotation["category_id"]
                others = [box for each, box in alike[annotation["image_id"], category] if each != annotation["id"]]
                size, box = (mask.height, mask.width), _corners(annotation["bbox"])
                yield entry["file_name"], annotation["id"], *size, mask.counts.decode("ascii"), box, category, others
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{annotations} is no COCO instances file: {type(error).__name__} {error}") from error


def _track(images: Path, record: Any) -> Track:
    image, annotation, height, width, counts, (x1, y1, x2, y2), _, others = record
    alike = tuple((left, top, right, bottom) for left, top, right, bottom in others)
    frame = TrackFrame(images / image, CocoMask(height, width, counts.encode("ascii")), (x1, y1, x2, y2), alike)
    return Track(f"{frame.image.stem}/{annotation}", (frame,))


def _corners(bbox: Any) -> Box:
    x, y, width, height = bbox
    return x, y, x + width, y + height


def _mask(segmentation: Any, entry: dict[str, Any]) -> CocoMask | None:
    """Polygons or run lengths as compressed run lengths; None where no polygon encloses anything."""
    height, width = entry["height"], entry["width"]
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        if isinstance(counts, str):
            return CocoMask(height, width, counts.encode("ascii"))
        return CocoMask(height, width, run_lengths.frPyObjects(segmentation, height, width)["counts"])
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        return None
    return CocoMask(height, width, run_lengths.merge(run_lengths.frPyObjects(polygons, height, width))["counts"])
