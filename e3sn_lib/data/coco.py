"""COCO instances in the official layout: a folder of images, and one JSON of polygons and runs.

pycocotools trusts what it is given: wrong sizes and lengths end in a crash or in unset memory. So
every annotation is checked first. One that cannot be used is left out, counted and named.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from e3sn_lib.data.index import Findings, indexed_tracks
from e3sn_lib.data.reading import read_json
from e3sn_lib.data.types import Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import LARGEST_SIZE, file_names

LONGEST_POLYGON = 1e6
"""Pixels around a polygon; pycocotools keeps five points for each."""


@dataclass(frozen=True, slots=True)
class CocoMask:
    """One object as compressed run lengths: a few hundred bytes instead of the image's pixels."""

    height: int
    width: int
    counts: bytes

    def read(self) -> NDArray[np.bool_]:
        """Return the mask (H, W) bool."""
        with warnings.catch_warnings():  # pycocotools hands numpy an array in its older way
            warnings.simplefilter("ignore", DeprecationWarning)
            runs = {"size": [self.height, self.width], "counts": self.counts}
            mask: NDArray[np.uint8] = run_lengths.decode(runs)
        return mask.astype(bool)


def coco_tracks(images: Path, annotations: Path, min_area: float = 0.0) -> TrackSet:
    """Return one track of one frame for each annotated object that is no crowd, in their order.

    Args:
        images: folder of the image files, which may lie in folders below it.
        annotations: ``instances_*.json``.
        min_area: in pixels, by the annotation's own ``area``; smaller objects are left out.

    Raises:
        InputError: the JSON cannot be read or lacks a list, or none of its images is on the disk.
    """
    parse = partial(_parse, images, annotations, min_area)
    key, unpack = (images, annotations, min_area), partial(_track, images)
    return indexed_tracks("coco", key, _sources(images, annotations), parse, unpack)


def _sources(images: Path, annotations: Path) -> Iterator[Path | str]:
    yield annotations
    yield from (folder for folder, _, _ in os.walk(images))


class _LeftOutError(Exception):
    """One annotation is left out: why, what is wrong if it is a fault, and which file is missing."""

    def __init__(self, reason: str, fault: str | None = None, missing: str = "") -> None:
        super().__init__(reason, fault, missing)
        self.reason, self.fault, self.missing = reason, fault, missing


def _parse(images: Path, annotations: Path, min_area: float, findings: Findings) -> Iterator[Any]:
    content = read_json(annotations)
    on_disk = cache(lambda folder: frozenset(file_names(images / folder)))
    usable: dict[Any, tuple[str, int, int]] = {}
    lost: dict[Any, _LeftOutError] = {}
    try:
        objects = [dict(each) for each in content["annotations"]]
        for entry in content["images"]:
            try:
                usable[entry["id"]] = _image(entry, on_disk)
            except _LeftOutError as error:
                lost[entry["id"]] = error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise InputError(f"{annotations} is no COCO instances file: {reason}") from error
    if not usable:
        reason = next((error.reason for error in lost.values()), "none is listed")
        none = f"none of the {len(lost)} images of {annotations} can be used ({reason})"
        raise InputError(f"{none}; unpack the images in {images}")
    for annotation in objects:
        name = f"annotation {annotation.get('id')}"
        try:
            record = _record(annotation, usable, lost, min_area)
        except _LeftOutError as error:
            findings.missing += [error.missing] if error.missing else []
            fault = error.fault if error.fault is None else f"{name} {error.fault}".rstrip()
            findings.leave_out(error.reason, fault)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            findings.leave_out("damaged annotation", f"{name}, {type(error).__name__} {error}")
        else:
            yield record


def _image(
    entry: dict[str, Any], on_disk: Callable[[PurePosixPath], frozenset[str]]
) -> tuple[str, int, int]:
    """Return name, height and width of an image that is on the disk."""
    name, height, width = entry.get("file_name"), entry.get("height"), entry.get("width")
    path = PurePosixPath(str(name))
    if path.is_absolute() or ".." in path.parts:
        raise _LeftOutError("of an image outside the folder of images", f"in {name}")
    if path.name not in on_disk(path.parent):
        raise _LeftOutError("image not on disk", missing=str(name))
    whole = isinstance(height, int) and isinstance(width, int)
    if not (whole and min(height, width) > 0 and height * width <= LARGEST_SIZE):
        raise _LeftOutError("of an image of impossible size", f"in {name}, {width}x{height}")
    return str(path), height, width


def _record(
    annotation: dict[str, Any],
    usable: dict[Any, tuple[str, int, int]],
    lost: dict[Any, _LeftOutError],
    min_area: float,
) -> Any:
    """Return what is kept of one annotation."""
    key = annotation["image_id"]
    if annotation.get("iscrowd"):
        raise _LeftOutError("crowd")
    if key in lost:
        raise _LeftOutError(*lost[key].args)
    if key not in usable:
        raise _LeftOutError("image not on disk", missing=f"image {key}")
    if float(_numbers([annotation["area"]])[0]) < min_area:
        raise _LeftOutError(f"smaller than {min_area:g} px")
    name, height, width = usable[key]
    x, y, wide, high = _numbers(annotation["bbox"])
    if min(wide, high) <= 0:
        raise _LeftOutError("box without area")
    box = _corners([x, y, x + wide, y + high], height, width).ravel().tolist()
    counts = _counts(annotation.get("segmentation"), height, width).decode("ascii")
    return name, annotation["id"], height, width, counts, box


def _track(images: Path, record: Any) -> Track:
    image, annotation, height, width, counts, (x1, y1, x2, y2) = record
    mask = CocoMask(height, width, counts.encode("ascii"))
    frame = TrackFrame(images / image, mask, (x1, y1, x2, y2))
    return Track(f"{frame.image.stem}/{annotation}", (frame,))


def _numbers(values: Any) -> NDArray[np.float64]:
    numbers = np.array(values)
    if numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        raise ValueError(f"{str(values)[:60]} are no finite numbers")
    return numbers.astype(np.float64)


def _corners(values: Any, height: int, width: int) -> NDArray[np.float64]:
    """Return x and y of corners (n, 2); none may be further outside than the image is large."""
    corners, size = _numbers(values).reshape(-1, 2), (width, height)
    if not ((corners >= np.negative(size)) & (corners <= np.multiply(2, size))).all():
        raise _LeftOutError("far outside the image", f"in {width}x{height}")
    return corners


def _counts(segmentation: Any, height: int, width: int) -> bytes:
    """Return polygons or run lengths in COCO's compressed form."""
    if not segmentation:
        raise _LeftOutError("without segmentation", "")
    if isinstance(segmentation, dict):
        return _checked_runs(segmentation, height, width)
    polygons = [_corners(each, height, width) for each in segmentation if len(each) >= 6]
    if not polygons:
        raise _LeftOutError("polygon of less than three points")
    around = max(np.abs(each - np.roll(each, 1, axis=0)).sum() for each in polygons)
    if around > LONGEST_POLYGON:
        raise ValueError(f"a polygon is {around:,.0f} pixels around")
    lists = [polygon.ravel().tolist() for polygon in polygons]
    counts: bytes = run_lengths.merge(run_lengths.frPyObjects(lists, height, width))["counts"]
    return counts


def _checked_runs(segmentation: dict[str, Any], height: int, width: int) -> bytes:
    """Return run lengths in compressed form, whose sum is the number of the image's pixels."""
    counts, size = segmentation["counts"], segmentation["size"]
    if size != [height, width]:
        theirs = "x".join(str(side) for side in reversed(size))
        both = f"of {theirs} in {width}x{height}"
        raise _LeftOutError("with run lengths of another size than the image", both)
    if isinstance(counts, str):
        text = counts.encode("ascii")
    else:
        text = run_lengths.frPyObjects(segmentation, height, width)["counts"]
    lengths = _decompressed(text)
    if min(lengths, default=0) < 0 or sum(lengths) != height * width:
        wrong = f"of {sum(lengths):,} pixels in {width}x{height}"
        raise _LeftOutError("with damaged run lengths", wrong)
    return text


def _decompressed(text: bytes) -> list[int]:
    """Return the run lengths of COCO's compressed text (``rleToString`` of pycocotools).

    A number is digits of 5 bits from 48 up, lowest first; 32 is added to all but its last digit.
    From the fourth number on it is the difference to the one two before.
    """
    lengths: list[int] = []
    value = place = 0
    for digit in (byte - 48 for byte in text):
        if not 0 <= digit < 64 or place > 30:
            raise _LeftOutError("with damaged run lengths", "of no known form")
        value |= (digit & 31) << place
        place += 5
        if digit < 32:  # the last digit; its highest bit is the sign
            value -= (digit >= 16) << place
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = place = 0
    if place:
        raise _LeftOutError("with damaged run lengths", "that are cut short")
    return lengths
