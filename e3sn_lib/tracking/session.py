"""Follow objects that come and go: add one in any frame, correct one in a later frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from e3sn_lib.errors import InputError
from e3sn_lib.geometry import Patch
from e3sn_lib.tracking.tracker import Targets, Tracker, check_box, labels_from_patches

MOST_OBJECTS = 254
"""Masks hold ids in 8 bits; 0 is background, and 255 means "do not score" in DAVIS."""

NO_PATCH = Patch(np.zeros((0, 0), np.float32), slice(0, 0), slice(0, 0))


@dataclass(frozen=True)
class Seen:
    """The objects of one frame; their numbers are their ids in the mask."""

    numbers: tuple[int, ...]
    """Of the objects followed in this frame, ascending."""
    ids: NDArray[np.uint8]
    """(H, W): 0 is background."""
    scores: NDArray[np.float64]
    """(N,) classification scores, 0 to 1; 1 where the box was given."""
    boxes_frame_xyxy: NDArray[np.float64]
    """(N, 4)."""
    predicted_j: NDArray[np.float64]
    """(N,) the region similarity J to be expected of each mask, 0 to 1."""
    lost: NDArray[np.bool_]
    """(N,) whether that is too low to believe the mask."""

    def joined(self, other: Seen) -> Seen:
        """Return these objects and those of `other` that are not among them, which lie below."""
        new = [place for place, number in enumerate(other.numbers) if number not in self.numbers]
        numbers = np.concatenate([self.numbers, np.array(other.numbers)[new]]).astype(int)
        below = np.where(np.isin(other.ids, np.array(other.numbers)[new]), other.ids, 0)
        order = numbers.argsort()
        return Seen(
            tuple(numbers[order].tolist()),
            np.where(self.ids > 0, self.ids, below),
            np.concatenate([self.scores, other.scores[new]])[order],
            np.concatenate([self.boxes_frame_xyxy, other.boxes_frame_xyxy[new]])[order],
            np.concatenate([self.predicted_j, other.predicted_j[new]])[order],
            np.concatenate([self.lost, other.lost[new]])[order],
        )


class Session:
    """Objects that are followed through one video, with their state.

    The tracker keeps nothing between frames, so several sessions can share one.

    Example::

        session = Session(tracker)
        session.add((60, 40, 50, 50))
        for number, frame in enumerate(frames):
            if number == 40:
                session.correct(1, (80, 42, 50, 50))
            seen = session.step(frame)

    Args:
        tracker: with the network.
        lost_below: predicted J, 0 to 1, below which an object is lost; 0: none ever is.
        keep_lost: show the masks of lost objects too; else they are empty.
    """

    def __init__(
        self, tracker: Tracker, *, lost_below: float = 0.0, keep_lost: bool = False
    ) -> None:
        self._tracker = tracker
        self._lost_below, self._keep_lost = lost_below, keep_lost
        self._given: dict[int, Sequence[float]] = {}
        self._groups: list[tuple[tuple[int, ...], Targets]] = []
        """Objects whose templates come from the same frame, with their state."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the objects that are followed from the next frame on, ascending."""
        return tuple(sorted({*self._given, *(each for group, _ in self._groups for each in group)}))

    def add(self, box_frame_xywh: Sequence[float], number: int | None = None) -> int:
        """Follow one more object, whose box in the next frame this is.

        Args:
            box_frame_xywh: x, y, width and height in pixels.
            number: of the object, 1 to 254; None: one more than the highest so far.

        Returns:
            Its number.

        Raises:
            InputError: the number is taken or out of range.
        """
        number = number or max(self.numbers, default=0) + 1
        if number in self.numbers:
            raise InputError(f"there is an object {number} already")
        check_number(number)
        self._given[number] = box_frame_xywh
        return number

    def correct(self, number: int, box_frame_xywh: Sequence[float]) -> None:
        """Say where an object is in the next frame; it is followed from there with a new template.

        Raises:
            InputError: there is no object of this number.
        """
        if number not in self.numbers:
            raise InputError(f"there is no object {number} that could be corrected")
        self._given[number] = box_frame_xywh

    def step(self, frame: NDArray[np.uint8]) -> Seen:
        """Find and segment the objects in the next frame.

        Args:
            frame: (H, W, 3) RGB; all frames have one size.

        Raises:
            InputError: a given box reaches outside the frame or has no area.
        """
        for number, box in self._given.items():
            check_box(box, frame.shape[:2], number)
        self._drop(self._given)
        results = []
        for place, (numbers, targets) in enumerate(self._groups):
            moved, result = self._tracker.step(frame, targets)
            self._groups[place] = numbers, moved
            results.append(result)
        if self._given:
            targets = self._tracker.start(frame, list(self._given.values()))
            self._groups.append((tuple(self._given), targets))
            results.append(self._tracker.step(frame, targets, move=False)[1])
            self._given = {}
        if not results:
            none, nowhere = np.zeros(0), np.zeros((0, 4))
            ids = np.zeros(frame.shape[:2], np.uint8)
            return Seen((), ids, none, nowhere, none, none.astype(bool))
        order = np.argsort([each for group, _ in self._groups for each in group])
        predicted = np.concatenate([result.predicted_j for result in results])[order]
        lost = predicted < self._lost_below
        hidden = lost & (not self._keep_lost)
        labels = results[0].ids
        if len(results) > 1 or hidden.any():
            patches = [patch for result in results for patch in result.patches]
            shown = [
                NO_PATCH if hides else patches[k] for k, hides in zip(order, hidden, strict=True)
            ]
            labels = labels_from_patches(
                shown, frame.shape[:2], self._tracker.config.mask_threshold
            )
        return Seen(
            self.numbers,
            np.array([0, *self.numbers], np.uint8)[labels],
            np.concatenate([result.scores for result in results])[order],
            np.concatenate([result.boxes_frame_xyxy for result in results])[order],
            predicted,
            lost,
        )

    def _drop(self, numbers: dict[int, Sequence[float]]) -> None:
        """Forget the state of these objects."""
        groups, self._groups = self._groups, []
        for group, targets in groups:
            kept = [place for place, number in enumerate(group) if number not in numbers]
            if kept:
                state = targets if len(kept) == len(group) else targets.select(kept)
                self._groups.append((tuple(group[place] for place in kept), state))


def check_number(number: int) -> None:
    """Raise InputError for an object's number that a mask cannot hold."""
    if not 1 <= number <= MOST_OBJECTS:
        raise InputError(f"object {number} has no room: masks hold objects 1 to {MOST_OBJECTS}")


def cleaned(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a mask (H, W) of ids with only the largest part of each object, its holes filled."""
    result, filled = np.zeros_like(ids), np.zeros_like(ids)
    for number in map(int, np.unique(ids[ids > 0])):
        _, parts, stats, _ = cv2.connectedComponentsWithStats((ids == number).astype(np.uint8))
        largest = parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
        result[largest] = number
        outline, _ = cv2.findContours(
            largest.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(filled, outline, -1, number, cv2.FILLED)
    return np.where(result > 0, result, filled)
