"""COCO instances in the official layout: a folder of images, and one JSON of polygons and runs.

pycocotools trusts what it is given: wrong sizes and lengths end in a crash or in unset memory. So
every annotation is checked first. One that cannot be used is left out, counted and named.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from e3sn_lib.data.index import Findings, indexed_tracks
from e3sn_lib.data.reading import read_json
from e3sn_lib.data.types import Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import LARGEST_SIZE, file_names
from e3sn_lib.geometry import Box

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


def coco_tracks(
    images: Path,
    annotations: Path,
    min_area: float = 0.0,
    hold_out: float = 0.0,
    held_out: bool = False,
) -> TrackSet:
    """Return one track of one frame for each annotated object that is no crowd, in their order.

    Args:
        images: folder of the image files, which may lie in folders below it.
        annotations: ``instances_*.json``.
        min_area: in pixels, by the annotation's own ``area``; smaller objects are left out.
        hold_out: share of the images, 0 to 1, that is kept out of training.
        held_out: True: return the objects of those images instead of the others.

    Raises:
        InputError: the JSON cannot be read or lacks a list, or none of its images is on the disk.
    """
    key = (images, annotations, min_area, hold_out, held_out)
    parse, unpack = partial(_parse, *key), partial(_track, images)
    return indexed_tracks("coco", key, _sources(images, annotations), parse, unpack)


def is_held_out(file_name: str, share: float) -> bool:
    """Say whether an image is in the share that training does not see; its name alone decides."""
    return int(hashlib.sha256(file_name.encode()).hexdigest()[:8], 16) < share * 2**32


def _sources(images: Path, annotations: Path) -> Iterator[Path | str]:
    yield annotations
    yield from (folder for folder, _, _ in os.walk(images))


class _LeftOutError(Exception):
    """An annotation is left out: why, what is wrong if it is a fault, and which file is missing."""

    def __init__(self, reason: str, fault: str | None = None, missing: str = "") -> None:
        super().__init__(reason, fault, missing)
        self.reason, self.fault, self.missing = reason, fault, missing


_BROKEN = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What a value of an unexpected kind raises."""


class _Image(NamedTuple):
    name: str
    height: int
    width: int


def _parse(
    images: Path,
    annotations: Path,
    min_area: float,
    hold_out: float,
    held_out: bool,
    findings: Findings,
) -> Iterator[Any]:
    content = read_json(annotations)
    try:
        entries = _images(images, content["images"])
        objects = [dict(each) for each in content["annotations"]]
    except _BROKEN as error:
        reason = f"{type(error).__name__} {error}"
        raise InputError(f"{annotations} is no COCO instances file: {reason}") from error
    if not any(isinstance(each, _Image) for each in entries.values()):
        reason = next((str(error) for error in entries.values()), "it lists none")
        none = f"none of the {len(entries)} images of {annotations} can be used"
        raise InputError(f"{none} ({reason}); unpack them in {images}")
    alike = _alike(objects, entries)
    for annotation in objects:
        name = f"annotation {annotation.get('id')}"
        try:
            key = annotation["image_id"]
            image = _usable(annotation, entries, key)
            if is_held_out(image.name, hold_out) != held_out:
                raise _LeftOutError("not held out" if held_out else "held out")
            record, category = _record(annotation, image, min_area), _category(annotation)
        except _LeftOutError as error:
            findings.missing += [error.missing] if error.missing else []
            fault = error.fault if error.fault is None else f"{name} {error.fault}".rstrip()
            findings.leave_out(error.reason, fault)
        except _BROKEN as error:
            findings.leave_out("damaged annotation", f"{name}, {type(error).__name__} {error}")
        else:
            findings.categories.append(category)
            others = alike[key, category]
            yield *record, [box for each, box in others if each != annotation["id"]]


def _images(folder: Path, entries: list[dict[str, Any]]) -> dict[Any, _Image | _LeftOutError]:
    """Return, by id, the images that can be used, and why the others cannot."""
    on_disk = cache(lambda below: frozenset(file_names(folder / below)))

    def checked(name: Any, height: Any, width: Any) -> _Image | _LeftOutError:
        path = PurePosixPath(str(name))
        if path.is_absolute() or ".." in path.parts:
            return _LeftOutError("of an image outside the folder of images", f"in {name}")
        if path.name not in on_disk(path.parent):
            return _LeftOutError("image not on disk", missing=str(name))
        whole = isinstance(height, int) and isinstance(width, int)
        if not (whole and min(height, width) > 0 and height * width <= LARGEST_SIZE):
            return _LeftOutError("of an image of impossible size", f"in {name}, {width}x{height}")
        return _Image(str(path), height, width)

    keys = ("file_name", "height", "width")
    return {each["id"]: checked(*(each.get(key) for key in keys)) for each in entries}


def _usable(annotation: dict[str, Any], entries: dict[Any, Any], key: Any) -> _Image:
    if annotation.get("iscrowd"):
        raise _LeftOutError("crowd")
    image = entries.get(key) or _LeftOutError("image not on disk", missing=f"image {key}")
    if isinstance(image, _Image):
        return image
    raise _LeftOutError(*image.args)


def _alike(
    objects: list[dict[str, Any]], entries: dict[Any, Any]
) -> dict[tuple[Any, int], list[tuple[Any, Box]]]:
    """Return id and box of the objects, also small ones, by image and category."""
    alike = defaultdict(list)
    for annotation in objects:
        try:
            key = annotation["image_id"]
            box = _box(annotation, _usable(annotation, entries, key))
            alike[key, _category(annotation)].append((annotation["id"], box))
        except (_LeftOutError, *_BROKEN):
            pass  # it is counted where it is left out itself
    return alike


def _record(annotation: dict[str, Any], image: _Image, min_area: float) -> Any:
    """Return what is kept of one annotation."""
    if _number(annotation["area"]) < min_area:
        raise _LeftOutError(f"smaller than {min_area:g} px")
    box, name = _box(annotation, image), annotation["id"]
    counts = _counts(annotation.get("segmentation"), image)
    return image.name, name, image.height, image.width, counts.decode("ascii"), box


def _track(images: Path, record: Any) -> Track:
    image, annotation, height, width, counts, (x1, y1, x2, y2), others = record
    alike = tuple((left, top, right, bottom) for left, top, right, bottom in others)
    mask = CocoMask(height, width, counts.encode("ascii"))
    frame = TrackFrame(images / image, mask, (x1, y1, x2, y2), alike)
    return Track(f"{frame.image.stem}/{annotation}", (frame,))


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} is no finite number")
    return float(value)


def _category(annotation: dict[str, Any]) -> int:
    return int(_number(annotation["category_id"]))


def _check_near(x1: float, y1: float, x2: float, y2: float, image: _Image) -> None:
    """Refuse what is further outside its image than the image is large."""
    width, height = image.width, image.height
    if min(x1 + width, y1 + height) < 0 or x2 > 2 * width or y2 > 2 * height:
        raise _LeftOutError("far outside the image", f"in {width}x{height}")


def _box(annotation: dict[str, Any], image: _Image) -> Box:
    """Return the corners of an annotation's box, x1, y1, x2, y2 in pixels of the image."""
    x, y, width, height = map(_number, annotation["bbox"])
    if min(width, height) <= 0:
        raise _LeftOutError("box without area")
    _check_near(x, y, x + width, y + height, image)
    return x, y, x + width, y + height


def _counts(segmentation: Any, image: _Image) -> bytes:
    """Return polygons or run lengths in COCO's compressed form."""
    if not segmentation:
        raise _LeftOutError("without segmentation", "")
    if isinstance(segmentation, dict):
        return _checked_runs(segmentation, image.height, image.width)
    polygons = [_polygon(each, image) for each in segmentation if len(each) >= 6]
    if not polygons:
        raise _LeftOutError("polygon of less than three points")
    runs = run_lengths.frPyObjects(polygons, image.height, image.width)
    counts: bytes = run_lengths.merge(runs)["counts"]
    return counts


def _polygon(values: Any, image: _Image) -> list[float]:
    """Return the corners of a polygon, x and y in turn."""
    polygon = [_number(value) for value in values]
    xs, ys = polygon[::2], polygon[1::2]
    _check_near(min(xs), min(ys), max(xs), max(ys), image)
    around = sum(abs(a - b) for a, b in zip(polygon, polygon[2:] + polygon[:2], strict=True))
    if len(xs) > len(ys) or around > LONGEST_POLYGON:
        raise ValueError(f"a polygon of {len(polygon)} numbers, {around:,.0f} pixels around")
    return polygon


def _checked_runs(segmentation: dict[str, Any], height: int, width: int) -> bytes:
    """Return run lengths in compressed form, whose sum is the number of the image's pixels."""
    counts, size = segmentation["counts"], segmentation["size"]
    if size != [height, width]:
        theirs = "x".join(str(side) for side in reversed(size))
        both = f"of {theirs} in {width}x{height}"
        raise _LeftOutError("with run lengths of another size than the image", both)
    compress = run_lengths.frPyObjects
    text: bytes = (
        counts.encode("ascii")
        if isinstance(counts, str)
        else compress(segmentation, height, width)["counts"]
    )
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
