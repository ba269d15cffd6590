"""What one would use without learning, and upper bounds: they say how much of a score is due to the network.

Each is a function from a sequence to one (H, W) array of object ids per frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from e3sn_lib.data.types import VOID, Video
from e3sn_lib.geometry import Box, box_from_mask, box_xywh
from e3sn_lib.tracking.tracker import Tracker

Baseline = Callable[[Video], Iterator[NDArray[np.uint8]]]


def first_box_held_still(sequence: Video) -> Iterator[NDArray[np.uint8]]:
    """The filled boxes of the first frame, in every frame."""
    first = sequence.mask(0)
    filled = fill_boxes(boxes_of(first, sequence.object_ids()), first.shape)
    return (filled for _ in range(len(sequence)))


def first_mask_held_still(sequence: Video) -> Iterator[NDArray[np.uint8]]:
    """The mask of the first frame, in every frame; its void is background."""
    first = sequence.mask(0)
    held = np.where(first < VOID, first, 0).astype(np.uint8)
    return (held for _ in range(len(sequence)))


def true_box_filled(sequence: Video) -> Iterator[NDArray[np.uint8]]:
    """The filled boxes of each frame's true masks: the bound of a tracker that gives boxes."""
    ids = sequence.object_ids()
    for index in range(len(sequence)):
        truth = sequence.mask(index)
        yield fill_boxes(boxes_of(truth, ids), truth.shape)


def mask_in_true_boxes(sequence: Video, tracker: Tracker) -> Iterator[NDArray[np.uint8]]:
    """The network's masks at each frame's true boxes: what would be left to lose if nothing were lost by localisation."""
    ids = sequence.object_ids()
    first_boxes = boxes_of(sequence.mask(0), ids)
    known = [number for number in ids if first_boxes[number] is not None]
    targets = tracker.start(sequence.frame(0), [box_xywh(box) for number in known if (box := first_boxes[number]) is not None])
    for index in range(len(sequence)):
        truth = sequence.mask(index)
        boxes = boxes_of(truth, ids)
        seen = [(slot, number, box) for slot, number in enumerate(known) if (box := boxes[number]) is not None]
        labels = np.zeros(truth.shape, np.uint8)
        if seen:
            at_truth = targets.select([slot for slot, _, _ in seen]).moved_to([box for _, _, box in seen])
            _, result = tracker.step(sequence.frame(index), at_truth, move=False)
            order = np.array([0, *(number for _, number, _ in seen)], np.uint8)
            labels = order[result.ids]
        yield labels


BASELINES: dict[str, Baseline] = {
    "first box held still": first_box_held_still,
    "first mask held still": first_mask_held_still,
    "true box filled": true_box_filled,
}


def boxes_of(ids: NDArray[np.uint8], numbers: list[int]) -> dict[int, Box | None]:
    """The box of each object in a mask of ids; None where it is absent."""
    return {number: box_from_mask(ids == number) for number in numbers}


def fill_boxes(boxes: dict[int, Box | None], frame_hw: tuple[int, ...]) -> NDArray[np.uint8]:
    """Boxes as a mask of ids; where they overlap, the smaller one is in front."""
    ids = np.zeros(frame_hw, np.uint8)
    for number, (x1, y1, x2, y2) in largest_first(boxes):
        left, top, right, bottom = (max(round(value), 0) for value in (x1, y1, x2, y2))
        ids[top:bottom, left:right] = number
    return ids


def largest_first(boxes: dict[int, Box | None]) -> list[tuple[int, Box]]:
    """The boxes that are there in the order of painting, by which smaller ones come to the front."""
    present = [(number, box) for number, box in boxes.items() if box is not None]
    return sorted(present, key=lambda item: -(item[1][2] - item[1][0]) * (item[1][3] - item[1][1]))
