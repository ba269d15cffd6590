"""COCO instances in the official layout: a folder of images and one JSON of polygons and run lengths."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from e3sn_lib.data.index import Findings, indexed_tracks
from e3sn_lib.data.reading import files_by_stem, read_json
from e3sn_lib.data.types import Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError


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


def coco_tracks(images: Path, annotations: Path, min_area: float = 0.0) -> TrackSet:
    """One track of one frame for each annotated object that is no crowd, in the order of the annotations.

    Args:
        images: folder of the image files.
        annotations: ``instances_*.json``.
        min_area: in pixels, by the annotation's own ``area``; smaller objects are left out.

    Raises:
        InputError: the JSON cannot be read or lacks a key, or none of its images is on the disk.
    """
    parse = partial(_parse, images, annotations, min_area)
    return indexed_tracks("coco", (images, annotations, min_area), (annotations, images), parse, partial(_track, images))


def _parse(images: Path, annotations: Path, min_area: float, findings: Findings) -> Iterator[Any]:
    content = read_json(annotations)
    left_out = findings.left_out
    try:
        entries = {entry["id"]: entry for entry in content["images"]}
        on_disk = {path.name for path in files_by_stem(images).values()}
        if not any(entry["file_name"] in on_disk for entry in entries.values()):
            raise InputError(f"none of the {len(entries)} images of {annotations} is in {images}; unpack the images there")
        for annotation in content["annotations"]:
            entry = entries.get(annotation["image_id"])
            if annotation.get("iscrowd"):
                left_out["crowd"] += 1
            elif entry is None or entry["file_name"] not in on_disk:
                left_out["image not on disk"] += 1
                findings.missing.append(entry["file_name"] if entry else f"image {annotation['image_id']}")
            elif annotation["area"] < min_area:
                left_out[f"smaller than {min_area:g} px"] += 1
            elif (mask := _mask(annotation["segmentation"], entry)) is None:
                left_out["polygon of less than three points"] += 1
            else:
                x, y, width, height = annotation["bbox"]
                box = (x, y, x + width, y + height)
                yield entry["file_name"], annotation["id"], mask.height, mask.width, mask.counts.decode("ascii"), box
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{annotations} is no COCO instances file: {type(error).__name__} {error}") from error


def _track(images: Path, record: Any) -> Track:
    image, annotation, height, width, counts, (x1, y1, x2, y2) = record
    frame = TrackFrame(images / image, CocoMask(height, width, counts.encode("ascii")), (x1, y1, x2, y2))
    return Track(f"{frame.image.stem}/{annotation}", (frame,))


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
