"""What OpenCV gives without any training of this study: its trackers, and GrabCut for the outline within a box."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from e3sn_lib.data.types import Video
from e3sn_lib.geometry import Box, box_xywh
from e3sn_study.evaluation.baselines import boxes_of, fill_boxes, largest_first

MakeTracker = Callable[[], Any]
"""A new ``cv2.Tracker``, which follows one object."""
Boxes = dict[int, Box | None]

ITERATIONS = 3
MARGIN = 0.25
"""Of the box's width and height: what GrabCut sees around the box, as certain background."""
LARGEST_AREA = 40_000
"""Pixels that GrabCut works on at most, larger crops are scaled down: its time is that of the pixels."""
FEWEST_PIXELS = 5
"""GrabCut's models of colour have five components each, and as many pixels are the least they can be made of."""
SEED = 0
UNREPEATABLE = {"MIL"}
"""Trackers that draw random numbers without a way to seed them."""
SETTINGS = {"iterations": ITERATIONS, "margin": MARGIN, "largest_area": LARGEST_AREA, "seed": SEED}
NANOTRACK_FILES = ("nanotrack_backbone.onnx", "nanotrack_head.onnx")


def opencv_trackers(data_root: Path) -> tuple[dict[str, MakeTracker], dict[str, str]]:
    """OpenCV's trackers that can be had here, by name, and what those need that cannot.

    Args:
        data_root: the folder of the data sets; NanoTrack's networks belong in its folder ``opencv``.
    """
    found: dict[str, MakeTracker] = {}
    lacking: dict[str, str] = {}
    needs = {"MIL": "an OpenCV with TrackerMIL", "CSRT": "the package opencv-contrib-python instead of opencv-python"}
    for name, need in needs.items():
        make = getattr(cv2, f"Tracker{name}_create", None)
        if make is None:
            lacking[name] = f"needs {need}"
        else:
            found[name] = make
    networks = [data_root / "opencv" / name for name in NANOTRACK_FILES]
    if not hasattr(cv2, "TrackerNano_create"):
        lacking["NanoTrack"] = "needs an OpenCV with TrackerNano"
    elif not all(path.is_file() for path in networks):
        lacking["NanoTrack"] = f"needs {' and '.join(NANOTRACK_FILES)} in the folder opencv of the data folder"
    else:
        found["NanoTrack"] = partial(_nanotrack, *networks)
    return found, lacking


def box_methods(name: str) -> tuple[str, str]:
    """Names of the two methods that a source of boxes makes: the box filled, and GrabCut within it."""
    return f"{name} box filled", f"{name} box + GrabCut"


def true_boxes(sequence: Video) -> Iterator[Boxes]:
    """The boxes of each frame's true masks."""
    ids = sequence.object_ids()
    return (boxes_of(sequence.mask(index), ids) for index in range(len(sequence)))


def tracked_boxes(sequence: Video, make: MakeTracker) -> Iterator[Boxes]:
    """The boxes of an OpenCV tracker that is given those of the first mask; where it gives up, the last one stays.

    An object that the first mask lacks has no box in any frame.
    """
    boxes = boxes_of(sequence.mask(0), sequence.object_ids())
    first = _bgr(sequence.frame(0))
    trackers = {number: make() for number, box in boxes.items() if box is not None}
    for number, tracker in trackers.items():
        tracker.init(first, _rectangle(boxes[number]))
    yield dict(boxes)
    for index in range(1, len(sequence)):
        frame = _bgr(sequence.frame(index))
        for number, tracker in trackers.items():
            ok, (x, y, width, height) = tracker.update(frame)
            if ok:
                boxes[number] = float(x), float(y), float(x + width), float(y + height)
        yield dict(boxes)


def masks_from_boxes(name: str, sequence: Video, boxes: Iterator[Boxes]) -> Mapping[str, Iterator[NDArray[np.uint8]]]:
    """The two methods of a source of boxes, each with one (H, W) array of object ids per frame; the boxes are found once."""
    known, hw = list(boxes), sequence.mask(0).shape
    filled, cut = box_methods(name)
    return {
        filled: (fill_boxes(each, hw) for each in known),
        cut: (grabcut_ids(sequence.frame(index), each) for index, each in enumerate(known)),
    }


def grabcut_ids(frame: NDArray[np.uint8], boxes: Boxes) -> NDArray[np.uint8]:
    """GrabCut in each box as (H, W) object ids; where objects overlap, that of the smaller box is in front."""
    ids = np.zeros(frame.shape[:2], np.uint8)
    for number, box in largest_first(boxes):
        ids[grabcut(frame, box)] = number
    return ids


def grabcut(frame: NDArray[np.uint8], box_frame_xyxy: Box) -> NDArray[np.bool_]:
    """The object in a box by its colours alone (Rother, Kolmogorov and Blake 2004, as in OpenCV).

    Outside the box all is background. The whole box is the answer where GrabCut has none: it finds nothing, or there are too few
    pixels on either side to tell apart.

    Args:
        frame: (H, W, 3) uint8.
        box_frame_xyxy: may reach outside the frame.

    Returns:
        (H, W).
    """
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = box_frame_xyxy
    left, right = (min(max(round(value), 0), width) for value in (x1, x2))
    top, bottom = (min(max(round(value), 0), height) for value in (y1, y2))
    answer = np.zeros((height, width), np.bool_)
    answer[top:bottom, left:right] = True
    across, down = math.ceil(MARGIN * (right - left)), math.ceil(MARGIN * (bottom - top))
    window = slice(max(top - down, 0), bottom + down), slice(max(left - across, 0), right + across)
    crop, inside = frame[window], answer[window].astype(np.uint8)
    if (shrink := math.sqrt(LARGEST_AREA / max(inside.size, 1))) < 1:
        size = max(round(shrink * inside.shape[1]), 1), max(round(shrink * inside.shape[0]), 1)
        crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        inside = cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST)  # type: ignore[assignment]
    if min(np.count_nonzero(inside), np.count_nonzero(inside == 0)) < FEWEST_PIXELS:
        return answer
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    cv2.setRNGSeed(SEED)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(crop), labels, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    found = ((labels == cv2.GC_PR_FGD) | (labels == cv2.GC_FGD)).astype(np.float32)
    if not found.any():
        return answer
    full = cv2.resize(found, answer[window].shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    answer[window] &= full
    return answer


def _nanotrack(backbone: Path, head: Path) -> Any:
    opencv: Any = cv2  # its type stubs do not know this tracker
    opencv.utils.logging.setLogLevel(
        opencv.utils.logging.LOG_LEVEL_ERROR
    )  # else it warns, for each video, of hardware nobody chose
    settings = opencv.TrackerNano_Params()
    settings.backbone, settings.neckhead = str(backbone), str(head)
    return opencv.TrackerNano_create(settings)


def _bgr(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)  # type: ignore[return-value]


def _rectangle(box_frame_xyxy: Box | None) -> tuple[int, ...]:
    assert box_frame_xyxy is not None
    return tuple(round(value) for value in box_xywh(box_frame_xyxy))
