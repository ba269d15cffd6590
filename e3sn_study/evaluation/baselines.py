"""Masks of simpler methods, and masks with true boxes, to compare the network with.

Methods are functions that yield one (H, W) array of object ids per frame of a sequence.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from e3sn_lib.data.types import VOID, Video
from e3sn_lib.geometry import Box, Image, box_from_mask, box_xywh
from e3sn_lib.tracking.tracker import Tracker
from e3sn_study.records.schema import STILL, STILL_BOX, box_methods

Ids = NDArray[np.uint8]
Boxes = dict[int, Box]
"""The boxes of the objects that are in one frame, by number, in pixels of the frame."""
MakeTracker = Callable[[], Any]
"""Makes a ``cv2.Tracker``, which follows one object."""

ITERATIONS = 3
MARGIN = 0.25
"""GrabCut sees this share of the box's size around it, as certain background."""
LARGEST_AREA = 40_000
"""Pixels that GrabCut works on. Larger crops are scaled down, because its time grows with them."""
FEWEST_PIXELS = 5
"""GrabCut models colours with five components, so it needs at least five pixels on each side."""
SEED = 0
GRABCUT = (ITERATIONS, MARGIN, LARGEST_AREA, SEED)
UNREPEATABLE = {"MIL"}
"""Trackers that draw random numbers and cannot be seeded."""
NANOTRACK_FILES = ("nanotrack_backbone.onnx", "nanotrack_head.onnx")


def baseline_masks(
    sequence: Video, trackers: Mapping[str, MakeTracker]
) -> dict[str, Iterator[Ids]]:
    """Return the masks of every method that needs no network of this study, by its name."""
    ids, first, count = sequence.object_ids(), sequence.mask(0), len(sequence)
    masks: dict[str, Iterator[Ids]] = {
        STILL_BOX: repeat(paint_boxes(boxes_of(first, ids), first.shape), count),
        STILL: repeat(np.where(first < VOID, first, 0).astype(np.uint8), count),
    }
    boxes = {"true": [boxes_of(sequence.mask(index), ids) for index in range(count)]}
    boxes |= {name: [*tracked_boxes(sequence, make)] for name, make in trackers.items()}
    for name, found in boxes.items():
        filled, cut = box_methods(name)
        masks[filled] = (paint_boxes(each, first.shape) for each in found)
        seen = zip(found, (sequence.frame(index) for index in range(count)), strict=True)
        masks[cut] = (paint_boxes(each, frame.shape[:2], frame) for each, frame in seen)
    return masks


def mask_in_true_boxes(sequence: Video, tracker: Tracker) -> Iterator[Ids]:
    """Yield the network's masks at the true boxes: no strict upper bound, since the network can do
    better in its own boxes."""
    first = boxes_of(sequence.mask(0), sequence.object_ids())
    targets = tracker.start(sequence.frame(0), [box_xywh(box) for box in first.values()])
    for index in range(len(sequence)):
        truth = sequence.mask(index)
        labels = np.zeros(truth.shape, np.uint8)
        if seen := boxes_of(truth, first):
            slots = [place for place, number in enumerate(first) if number in seen]
            at_truth = targets.select(slots).moved_to(list(seen.values()))
            _, result = tracker.step(sequence.frame(index), at_truth, move=False)
            labels = np.array([0, *seen], np.uint8)[result.ids]
        yield labels


def tracked_boxes(sequence: Video, make: MakeTracker) -> Iterator[Boxes]:
    """Yield the boxes of an OpenCV tracker that starts from those of the first mask.

    Where it gives up, the last box stays. An object that the first mask lacks has no box.
    """
    boxes = boxes_of(sequence.mask(0), sequence.object_ids())
    trackers = {number: make() for number in boxes}
    for index in range(len(sequence)):
        frame = cv2.cvtColor(sequence.frame(index), cv2.COLOR_RGB2BGR)
        for number, tracker in trackers.items():
            if index == 0:
                tracker.init(frame, tuple(map(round, box_xywh(boxes[number]))))
                continue
            ok, (x, y, width, height) = tracker.update(frame)
            if ok:
                boxes[number] = float(x), float(y), float(x + width), float(y + height)
        yield dict(boxes)


def boxes_of(ids: Ids, numbers: Iterable[int]) -> Boxes:
    """Return the boxes of those objects that are in a mask of ids."""
    boxes = {number: box_from_mask(ids == number) for number in numbers}
    return {number: box for number, box in boxes.items() if box}


def paint_boxes(boxes: Boxes, frame_hw: tuple[int, ...], frame: Image | None = None) -> Ids:
    """Return an (H, W) mask of ids: boxes filled, or `grabcut` in each if their frame is given.

    Smaller boxes are in front of larger ones.
    """
    ids = np.zeros(frame_hw, np.uint8)
    for number, box in sorted(boxes.items(), key=lambda item: -math.prod(box_xywh(item[1])[2:])):
        ids[_pixels(box, frame_hw) if frame is None else grabcut(frame, box)] = number
    return ids


def grabcut(frame: Image, box_frame_xyxy: Box) -> NDArray[np.bool_]:
    """Find the object in a box by its colours alone (Rother, Kolmogorov and Blake 2004, OpenCV).

    All outside the box is background. The whole box is the answer where GrabCut finds nothing,
    or where there are too few pixels inside or around it. The box may reach outside the frame,
    (H, W, 3); the answer is (H, W).
    """
    answer = np.zeros(frame.shape[:2], np.bool_)
    rows, columns = _pixels(box_frame_xyxy, frame.shape)
    answer[rows, columns] = True
    down = math.ceil(MARGIN * (rows.stop - rows.start))
    across = math.ceil(MARGIN * (columns.stop - columns.start))
    around = (columns.start - across, rows.start - down, columns.stop + across, rows.stop + down)
    window = _pixels(around, frame.shape)
    crop, inside = frame[window], answer[window].astype(np.uint8)
    if (shrink := math.sqrt(LARGEST_AREA / max(inside.size, 1))) < 1:
        size = [max(round(shrink * side), 1) for side in inside.shape[::-1]]
        crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        inside = cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST)  # type: ignore[assignment]
    if min(np.count_nonzero(inside), np.count_nonzero(inside == 0)) < FEWEST_PIXELS:
        return answer
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    cv2.setRNGSeed(SEED)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cut: Any = cv2.grabCut  # its type stubs want a rectangle
    cut(np.ascontiguousarray(crop), labels, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    found = ((labels == cv2.GC_PR_FGD) | (labels == cv2.GC_FGD)).astype(np.float32)
    if found.any():
        full = cv2.resize(found, answer[window].shape[::-1], interpolation=cv2.INTER_LINEAR)
        answer[window] &= full > 0.5
    return answer


def _pixels(box_frame_xyxy: Box, frame_hw: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of a box, within the frame."""
    left, top, right, bottom = map(round, box_frame_xyxy)
    rows = np.clip((top, bottom), 0, frame_hw[0]).tolist()
    columns = np.clip((left, right), 0, frame_hw[1]).tolist()
    return slice(*rows), slice(*columns)


def opencv_trackers(data_root: Path) -> tuple[dict[str, MakeTracker], dict[str, str]]:
    """Return OpenCV's trackers that are available here, by name, and what the others need.

    NanoTrack's networks are in the folder ``opencv`` of the data folder.
    """
    needs = {
        "MIL": "needs an OpenCV with TrackerMIL",
        "CSRT": "needs the package opencv-contrib-python instead of opencv-python",
    }
    makers = {name: getattr(cv2, f"Tracker{name}_create", None) for name in needs}
    found: dict[str, MakeTracker] = {name: make for name, make in makers.items() if make}
    lacking = {name: need for name, need in needs.items() if name not in found}
    networks = [data_root / "opencv" / name for name in NANOTRACK_FILES]
    if not hasattr(cv2, "TrackerNano_create"):
        lacking["NanoTrack"] = "needs an OpenCV with TrackerNano"
    elif not all(path.is_file() for path in networks):
        files = " and ".join(NANOTRACK_FILES)
        lacking["NanoTrack"] = f"needs {files} in the folder opencv of the data folder"
    else:
        found["NanoTrack"] = partial(_nanotrack, *networks)
    return found, lacking


def _nanotrack(backbone: Path, head: Path) -> Any:
    opencv: Any = cv2  # its type stubs do not know this tracker
    log = opencv.utils.logging
    log.setLogLevel(log.LOG_LEVEL_ERROR)  # else it warns, for each video, of absent hardware
    settings = opencv.TrackerNano_Params()
    settings.backbone, settings.neckhead = str(backbone), str(head)
    return opencv.TrackerNano_create(settings)
