"""Follow objects that come and go: add one in any frame, correct one in a later frame."""

import operator
from collections.abc import Container, Sequence
from copy import copy
from dataclasses import replace
from itertools import product
from typing import NamedTuple, Self

import cv2
import numpy as np

from e3sn_lib.errors import InputError
from e3sn_lib.geometry import TEMPLATE_SIZE, Floats, Image, Patch, context_side
from e3sn_lib.tracking.edges import fit_to_colours
from e3sn_lib.tracking.tracker import (
    MOST_OBJECTS,
    SEARCH_SIZE,
    FourNumbers,
    FrameResult,
    Targets,
    Tracker,
    check_frame,
    labels_from_patches,
)

Groups = list[tuple[tuple[int, ...], Targets]]
"""Numbers and state of objects whose templates come from the same frame."""
WIDER = 2
"""The tracker also looks for a lost object in crops this many times as wide (ours)."""
APART = 0.6
"""Distance of the places to look at, as a share of the side of their crops."""
RESIZED = 1.08
"""If width or height of a box changes by more than this factor, the tracker looks again (ours)."""
COLOUR_WEIGHT = 0.4
"""Weight of the likeness of colours, which is added to an anchor's rank of at most 1 (ours)."""
LARGEST_OVERLAP = 0.5
"""A mask of which a larger share lies on other objects does not show the lost one."""


class Found(NamedTuple):
    """One object in one frame."""

    box_frame_xyxy: Floats
    score: float
    """Classification score, 0 to 1; 1 where the box was given."""
    predicted_j: float
    """Predicted region similarity J of the mask, 0 to 1."""
    lost: bool
    """Whether the predicted J is below ``lost_below``; never where the box was given."""


class Seen(NamedTuple):
    """The objects of one frame."""

    ids: Image
    """(H, W) numbers of the objects; 0 is background."""
    objects: dict[int, Found]
    """By number, ascending."""

    def joined(self, other: Self) -> Self:
        """Return these objects and, below them, those that only `other` has."""
        new = other.objects.keys() - self.objects
        below = np.where(np.isin(other.ids, list(new)), other.ids, 0)
        ids = np.where(self.ids > 0, self.ids, below)
        return type(self)(ids, dict(sorted((other.objects | self.objects).items())))


class Session:
    """Objects that are followed through one video, with their state.

    The tracker keeps nothing between frames, so several sessions can share one. As in the paper, a
    session takes one step in each frame, but with four additions. The edges of masks are fitted to
    the colours of the frame. If several places look like an object, the colours of its first mask
    help to choose. One step corrects a wrong size only partly, so the session takes a second step,
    from the new place, if the size of an object changed much. The session searches for a lost
    object in a wider part of the frame around its last place, and in one other part. The other part
    changes with each frame, so that over time the whole frame is searched. The object is found if
    its mask there has a predicted J of `lost_below` or more and at most half of it lies on other
    objects. Raises InputError if a setting is out of range.

    Args:
        lost_below: predicted J, 0 to 1, below which an object is lost; 0: no object is ever lost.
        keep_lost: show the masks of lost objects too; else they are empty.
        resized_by: factor by which width or height must change for a second step, 1 or more;
            infinity: no second step.
        colour_weight: how much the colours of the first mask count in the choice between places,
            from 0, not at all.
        fit_edges: fit the edges of masks to colours, see `fit_to_colours`.
    """

    def __init__(
        self,
        tracker: Tracker,
        *,
        lost_below: float = 0.0,
        keep_lost: bool = False,
        resized_by: float = RESIZED,
        colour_weight: float = COLOUR_WEIGHT,
        fit_edges: bool = True,
    ) -> None:
        if not 0 <= lost_below <= 1:
            raise InputError(f"lost_below is {lost_below}; give a predicted J, 0 to 1")
        if not resized_by >= 1:
            raise InputError(f"resized_by is {resized_by}; give a factor of 1 or more")
        if not 0 <= colour_weight < np.inf:
            raise InputError(f"colour_weight is {colour_weight}; give a number of 0 or more")
        self._tracker = tracker
        self._lost_below, self._keep_lost = lost_below, keep_lost
        self._resized_by, self._colour_weight = resized_by, colour_weight
        self._fit_edges = fit_edges
        self._steps = 0
        self._frame_hw: tuple[int, int] | None = None
        self._known: dict[int, tuple[int, Floats]] = {}
        """For each object, the step in which it was last seen, and its box, x1, y1, x2, y2."""
        self._colours: dict[int, Floats | None] = {}
        """Of each object and its surroundings, in the frames where it was seen; None: not yet."""
        self._given: dict[int, FourNumbers] = {}
        self._groups: Groups = []

    @property
    def numbers(self) -> set[int]:
        """The numbers of all objects that the next step follows."""
        return {*self._given, *(number for numbers, _ in self._groups for number in numbers)}

    def add(self, box_frame_xywh: FourNumbers, number: int | None = None) -> int:
        """Add an object by its box in the next frame: left, top, width and height in pixels.

        Return its number, 1 to 254; None stands for one more than the highest that is followed now.
        Raises InputError if the number is taken or out of range; `step` checks the box.
        """
        if number is None:
            number = max(self.numbers, default=0) + 1
        number = check_number(number)
        if number in self.numbers:
            raise InputError(f"there is an object {number} already")
        self._given[number] = copy(box_frame_xywh)
        return number

    def correct(self, number: int, box_frame_xywh: FourNumbers) -> None:
        """Say where an object is in the next frame, and follow it from there with a new template.
        The box is as in `add`. Raises InputError if there is no object of this number."""
        if number not in self.numbers:
            raise InputError(f"there is no object {number} that could be corrected")
        self._given[check_number(number)] = copy(box_frame_xywh)

    def remove(self, number: int) -> None:
        """Stop following an object; raises InputError if there is none of this number."""
        if number not in self.numbers:
            raise InputError(f"there is no object {number} that could be removed")
        self._given.pop(number, None)
        self._groups = self._without({number})

    def step(self, frame: Image) -> Seen:
        """Find and segment the objects in the next frame, (H, W, 3) RGB, of the size of the first.
        Raises InputError if a given box cannot be followed; `correct` or `remove` its object.
        """
        check_frame(frame, self._frame_hw)  # also where there is no object yet
        kept = self._without(self._given)
        steps = [(numbers, *self._follow(frame, state)) for numbers, state in kept]
        if self._given:
            numbers = tuple(self._given)
            state = self._tracker.start(frame, list(self._given.values()), numbers)
            state, result = self._tracker.step(frame, state, False, self._colour_weight)
            # none of them is lost: the boxes say where they are
            here = [(each._replace(lost=False), patch) for each, patch in self._found(result)]
            steps.append((numbers, state, here))
        self._frame_hw, self._steps = frame.shape[:2], self._steps + 1
        objects: dict[int, Found] = {}
        patches: dict[int, Patch] = {}
        for numbers, _, found in steps:
            for number, each in zip(numbers, found, strict=True):
                objects[number], patches[number] = each
        self._groups = [(numbers, state) for numbers, state, _ in steps]
        self._search_lost(frame, kept, objects, patches)
        for number, last in objects.items():
            if not last.lost:
                self._known[number] = self._steps, last.box_frame_xyxy.copy()
        shown = {key: patches[key] for key in objects if self._keep_lost or not objects[key].lost}
        threshold = self._tracker.config.mask_threshold
        self._colours |= dict.fromkeys(self._given)  # those of an earlier box may be wrong
        for number, patch in shown.items() if self._fit_edges else ():
            known = self._colours.get(number)
            shown[number], colours = fit_to_colours(frame, patch, threshold, known)
            self._colours[number] = known if objects[number].lost else colours
        self._given = {}
        ids = labels_from_patches(shown, frame.shape[:2], threshold)
        return Seen(ids, dict(sorted(objects.items())))

    def _follow(self, frame: Image, before: Targets) -> tuple[Targets, list[tuple[Found, Patch]]]:
        """Take a step with a group, and a second step with its objects that were resized."""
        after, result = self._tracker.step(frame, before)
        found = self._found(result)
        change = np.abs(np.log(after.size_wh / before.size_wh)).max(axis=1)
        if places := np.flatnonzero(change > np.log(self._resized_by)).tolist():
            again, result = self._tracker.step(frame, after.select(places))
            for place, each in zip(places, self._found(result), strict=True):
                found[place] = each
            boxes = after.boxes_frame_xyxy()
            boxes[places] = again.boxes_frame_xyxy()
            after = after.moved_to(boxes)
        return after, found

    def _found(self, result: FrameResult) -> list[tuple[Found, Patch]]:
        columns = result.boxes_frame_xyxy, result.scores, result.predicted_j, result.patches
        return [
            (Found(box, score, j, bool(j < self._lost_below)), patch)
            for box, score, j, patch in zip(*columns, strict=True)
        ]

    def _search_lost(
        self, frame: Image, kept: Groups, objects: dict[int, Found], patches: dict[int, Patch]
    ) -> None:
        """Search for lost objects in wider crops: at their last place, then at one other place.

        The search starts from the state before this frame. One more step is taken from the place
        found, and its mask decides. An object that is found replaces the lost one.
        """
        for (group, (numbers, before)), elsewhere in product(enumerate(kept), (False, True)):
            places = [place for place, number in enumerate(numbers) if objects[number].lost]
            if not places:
                continue
            lost = before.select(places)
            if elsewhere:
                lost = self._elsewhere(lost, [numbers[place] for place in places])
            near, _ = self._tracker.step(frame, replace(lost, size_wh=WIDER * lost.size_wh))
            _, result = self._tracker.step(frame, near)
            for place, (found, patch) in zip(places, self._found(result), strict=True):
                others = {key: patches[key] for key, each in objects.items() if not each.lost}
                if found.lost or self._is_covered(patch, others, frame.shape[:2]):
                    continue
                objects[numbers[place]], patches[numbers[place]] = found, patch
                _, state = self._groups[group]
                boxes = state.boxes_frame_xyxy()
                boxes[place] = found.box_frame_xyxy
                self._groups[group] = numbers, state.moved_to(boxes)

    def _is_covered(
        self, patch: Patch, others: dict[int, Patch], frame_hw: tuple[int, ...]
    ) -> bool:
        """Return whether a mask lies mostly on other objects, so it does not show the lost one."""
        threshold = self._tracker.config.mask_threshold
        mask, taken = patch.soft > threshold, labels_from_patches(others, frame_hw, threshold)
        covered = mask & (taken[patch.rows, patch.columns] > 0)
        return bool(covered.sum() > LARGEST_OVERLAP * mask.sum())

    def _elsewhere(self, lost: Targets, numbers: Sequence[int]) -> Targets:
        """Return lost objects at the next place to look at, with the size that they last had.

        The wider crops at all places cover the frame. The place nearest to where the object was
        seen last comes first.
        """
        frame_wh, boxes = np.array(lost.frame_hw[::-1]), [self._known[each][1] for each in numbers]
        known, centres = lost.moved_to(boxes), []
        sides = context_side(WIDER * known.size_wh) * SEARCH_SIZE / TEMPLATE_SIZE
        for number, centre, side in zip(numbers, known.centre_frame_xy, sides, strict=True):
            counts = np.ceil(frame_wh / (APART * side)).astype(int)
            places = (np.indices(counts).reshape(2, -1).T + 0.5) * frame_wh / counts
            nearest = np.linalg.norm(places - centre, axis=1).argsort(kind="stable")
            step, _ = self._known[number]
            centres.append(places[nearest[(self._steps - step - 1) % len(places)]])
        return replace(known, centre_frame_xy=np.array(centres))

    def _without(self, dropped: Container[int]) -> Groups:
        groups = []
        for numbers, state in self._groups:
            kept = [place for place, number in enumerate(numbers) if number not in dropped]
            if len(kept) == len(numbers):  # in most frames; nothing is copied
                groups.append((numbers, state))
            elif kept:
                groups.append((tuple(numbers[place] for place in kept), state.select(kept)))
        return groups


def check_number(number: int) -> int:
    """Return an object's number as int; raise InputError for one that a mask cannot hold."""
    try:
        whole = operator.index(number)
    except TypeError:
        whole = 0
    if not 1 <= whole <= MOST_OBJECTS:
        raise InputError(f"object {number} is out of range: masks hold 1 to {MOST_OBJECTS}")
    return whole


def cleaned(ids: Image) -> Image:
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
