"""COCO instances in the official layout: a folder of images, and one JSON of polygons and runs.

pycocotools does not check its input: wrong sizes and lengths cause a crash or read unset memory. So
every annotation is checked first. If it cannot be used, it is left out, counted and named.
"""

import hashlib
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from e3sn_lib.config import TrainSetConfig
from e3sn_lib.data.index import indexed_tracks
from e3sn_lib.data.types import Findings, Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import MOST_PIXELS, file_names, read_json, walk
from e3sn_lib.geometry import Box, box_xywh, is_far

LARGEST = 2**53
"""Larger numbers are not exact as floats."""
MOST_ALIKE = 64
"""Objects of the same category in an image that are kept for each object: the nearest ones."""
LONGEST_OUTLINE = 1e6
"""Largest outline of an object in pixels; pycocotools keeps five points for each pixel."""


@dataclass(frozen=True, slots=True)
class CocoMask:
    """One object as compressed run lengths, which take a few hundred bytes."""

    height: int
    width: int
    counts: bytes

    def read(self) -> NDArray[np.bool_]:
        """Return the mask (H, W) bool."""
        with warnings.catch_warnings():  # pycocotools hands numpy an array in its older way
            warnings.simplefilter("ignore", DeprecationWarning)
            runs = {"size": [self.height, self.width], "counts": self.counts}
            return run_lengths.decode(runs).astype(bool)


def coco_tracks(root: Path, config: TrainSetConfig, held_out: bool = False) -> TrackSet:
    """Return one track of one frame for each annotated object that is no crowd, in their order.

    `config` names the folder of the images, which may lie in folders below it, and the JSON. Left
    out are objects whose own ``area`` is below ``min_area``, and the images of ``hold_out_share``;
    with `held_out`, only these images are used. Raises InputError if the JSON is no instances file.
    """
    images, annotations = root / config.images, root / config.annotations
    key = (images, annotations, config.min_area, config.hold_out_share, held_out)
    sources = [annotations, *(folder for folder, _ in walk(images))]
    parse = partial(_parse, root, config, held_out)
    return indexed_tracks("coco", key, sources, parse, partial(_track, images))


@dataclass(eq=False)
class _LeftOutError(Exception):
    """An annotation is left out; see `Findings.leave_out`."""

    reason: str
    fault: str | None = None
    missing: str = ""


_BROKEN = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What a value of an unexpected kind raises."""


class _Image(NamedTuple):
    name: str
    height: int
    width: int


def _parse(root: Path, config: TrainSetConfig, held_out: bool, findings: Findings) -> Iterator[Any]:
    """Yield the stored values of each object; all objects are read first, to know look-alikes."""
    images, annotations = root / config.images, root / config.annotations
    content = read_json(annotations)
    try:
        entries = {each["id"]: each for each in content["images"]}
        objects = [dict(each) for each in content["annotations"]]
    except _BROKEN as error:
        reason = f"{type(error).__name__} {error}"
        raise InputError(f"{annotations} is no COCO instances file: {reason}") from error
    if len(entries) < len(content["images"]):  # an annotation would not say which image it means
        ids = f"{len(content['images'])} images have {len(entries)} ids"
        raise InputError(f"{annotations}: {ids}; give each image its own")
    on_disk = cache(lambda below: frozenset(file_names(images / below)))
    # id and box of all objects, also small ones, by image and category
    alike: dict[tuple[Any, int], list[tuple[int, Box]]] = defaultdict(list)
    records = []
    for number, annotation in enumerate(objects):
        name = f"annotation {annotation.get('id')}"
        try:
            key = annotation["image_id"]
            if annotation.get("iscrowd"):
                raise _LeftOutError("crowd")
            if key not in entries:
                raise _LeftOutError("image not on disk", missing=f"image {key}")
            image = _image(entries[key], on_disk)
            box, category = _box(annotation, image), int(_number(annotation["category_id"]))
            same = alike[key, category]
            same.append((number, box))
            if _is_held_out(image.name, config.hold_out_share) != held_out:
                raise _LeftOutError("not held out" if held_out else "held out")
            if _number(annotation["area"]) < config.min_area:
                raise _LeftOutError(f"smaller than {config.min_area:g} px")
            counts = _counts(annotation.get("segmentation"), image)
            _check_box(box, counts, image)
            record = (image.name, annotation["id"], *image[1:], counts.decode("ascii"), box)
        except _LeftOutError as error:
            fault = None if error.fault is None else f"{name} {error.fault}".rstrip()
            findings.leave_out(error.reason, fault, error.missing)
        except _BROKEN as error:
            findings.leave_out("damaged annotation", f"{name}, {type(error).__name__} {error}")
        else:
            findings.categories.append(category)
            records.append((number, record, same))
    for number, record, same in records:
        left, top, right, bottom = record[-1]
        others = [box for each, box in same if each != number]
        if len(others) > MOST_ALIKE:
            x, y = left + right, top + bottom
            others.sort(key=lambda box: abs(box[0] + box[2] - x) + abs(box[1] + box[3] - y))
        yield *record, others[:MOST_ALIKE]


def _is_held_out(file_name: str, share: float) -> bool:
    """Return whether training does not see an image; only the name of the image decides."""
    return int(hashlib.sha256(file_name.encode()).hexdigest()[:8], 16) < share * 2**32


def _image(entry: Any, on_disk: Callable[[PurePosixPath], frozenset[str]]) -> _Image:
    """Return an image of the file's list if it can be used."""
    name, height, width = (entry.get(each) for each in ("file_name", "height", "width"))
    path = PurePosixPath(str(name).replace("\\", "/"))  # as tools on Windows write it
    if path.is_absolute() or ".." in path.parts:
        raise _LeftOutError("of an image outside the folder of images", f"in {name}")
    if path.name not in on_disk(path.parent):
        raise _LeftOutError("image not on disk", missing=str(name))
    whole = all(isinstance(side, int | float) and side == int(side) for side in (height, width))
    if not (whole and min(height, width) > 0 and height * width <= MOST_PIXELS):
        raise _LeftOutError("of an image of impossible size", f"in {name}, {width}x{height}")
    return _Image(str(path), int(height), int(width))


def _track(images: Path, record: Any) -> Track:
    image, annotation, height, width, counts, box, others = record
    mask = CocoMask(height, width, counts.encode("ascii"))
    frame = TrackFrame(images / image, mask, tuple(box), tuple(tuple(each) for each in others))
    return Track(f"{frame.image.stem}/{annotation}", (frame,))


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= LARGEST:
        raise ValueError(f"{str(value)[:40]!r} is no number up to 2**53")
    return float(value)


def _check_near(x1: float, y1: float, x2: float, y2: float, image: _Image) -> None:
    """Refuse coordinates that lie outside the image by more than the size of the image."""
    if is_far((x1, y1, x2, y2), image.width, image.height):
        raise _LeftOutError("far outside the image", f"in {image.width}x{image.height}")


def _box(annotation: dict[str, Any], image: _Image) -> Box:
    x, y, width, height = map(_number, annotation["bbox"])
    if min(width, height) <= 0:
        raise _LeftOutError("box without area")
    _check_near(x, y, x + width, y + height, image)
    return x, y, x + width, y + height


def _check_box(box: Box, counts: bytes, image: _Image) -> None:
    """Refuse a box whose intersection over union with its mask's own box is below one half.

    Both are first made one pixel larger at each side, because rounding matters for tiny objects.
    """
    of_mask = run_lengths.toBbox({"size": [image.height, image.width], "counts": counts})
    larger = np.add([box_xywh(box), of_mask], [-1, -1, 2, 2])
    if run_lengths.iou(larger[:1], larger[1:], [False]).item() < 0.5:
        place = ", ".join(f"{value:g}" for value in of_mask)
        raise _LeftOutError("whose box is not that of its mask", f"whose mask has the box {place}")


def _counts(segmentation: Any, image: _Image) -> bytes:
    """Return polygons or run lengths in COCO's compressed form."""
    if not segmentation:
        raise _LeftOutError("without segmentation", "")
    if isinstance(segmentation, dict):
        return _checked_runs(segmentation, image.height, image.width)
    if not all(isinstance(each, list) for each in segmentation):
        raise ValueError("its segmentation is no list of polygons")
    polygons = [_polygon(each, image) for each in segmentation if len(each) >= 6]
    if not polygons:
        raise _LeftOutError("polygon of less than three points")
    around = sum(map(_around, polygons))
    if around > LONGEST_OUTLINE:
        numbers = sum(map(len, polygons))
        raise ValueError(f"polygons of {numbers} numbers, {around:,.0f} pixels around")
    runs = run_lengths.frPyObjects(polygons, image.height, image.width)
    return run_lengths.merge(runs)["counts"]


def _polygon(values: Any, image: _Image) -> list[float]:
    """Return the corners of a polygon, x and y in turn."""
    polygon = [_number(value) for value in values]
    xs, ys = polygon[::2], polygon[1::2]
    _check_near(min(xs), min(ys), max(xs), max(ys), image)
    if len(xs) > len(ys):
        raise ValueError(f"a polygon of {len(polygon)} numbers")
    return polygon


def _around(polygon: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(polygon, polygon[2:] + polygon[:2], strict=True))


def _checked_runs(segmentation: dict[str, Any], height: int, width: int) -> bytes:
    """Return run lengths in compressed form, whose sum is the number of the image's pixels."""
    counts, size = segmentation["counts"], segmentation["size"]
    if size != [height, width]:
        both = f"of {'x'.join(str(side) for side in reversed(size))} in {width}x{height}"
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


_NUMBER = re.compile(rb"[P-o]{0,6}[0-O]")
"""One number of COCO's compressed text: digits of 5 bits, each 48 and more, the lowest first. 32 is
added to all but the last digit; the highest bit of the last is the sign."""


def _decompressed(text: bytes) -> list[int]:
    """Return the run lengths of COCO's compressed text (``rleToString`` of pycocotools).

    From the fourth number on, the text has each number minus the number two places before it.
    """
    numbers = _NUMBER.findall(text)
    if b"".join(numbers) != text:
        raise _LeftOutError("with damaged run lengths", "of no known form")
    lengths: list[int] = []
    for number in numbers:
        digits = [(byte - 48) % 32 for byte in number]
        value = sum(digit * 32**place for place, digit in enumerate(digits))
        if digits[-1] >= 16:  # the sign
            value -= 32 ** len(digits)
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    return lengths
