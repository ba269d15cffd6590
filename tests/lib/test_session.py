"""Objects that come, are corrected and stay apart; the order of boxes; clean masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from planted import Planted
from scipy import ndimage

from e3sn_lib.config import TrackConfig
from e3sn_lib.errors import InputError
from e3sn_lib.files import write_mask
from e3sn_lib.geometry import STRIDE, WINDOW_MARGIN, Patch
from e3sn_lib.model.network import E3SN
from e3sn_lib.tracking import session as session_module
from e3sn_lib.tracking.prompts import (
    Prompt,
    first_frames,
    placed,
    prompt_from_text,
    prompts_from_mask,
)
from e3sn_lib.tracking.session import Found, Seen, Session, cleaned
from e3sn_lib.tracking.tracker import Targets, Tracker
from e3sn_lib.tracking.video import VideoSource

Histograms = NDArray[np.float64] | None
ONE, TWO, THREE = (20.0, 30.0, 60.0, 25.0), (140.0, 90.0, 40.0, 40.0), (200.0, 100.0, 30.0, 90.0)


def noise(count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(count)]


def boxes(seen: Seen) -> NDArray[np.float64]:
    return np.array([each.box_frame_xyxy for each in seen.objects.values()])


class TestSession:
    def test_objects_from_the_start_are_those_of_the_tracker(self, tiny_model: E3SN) -> None:
        tracker, frames = Tracker(tiny_model), noise(3)
        session = Session(tracker, resized_by=math.inf, colour_weight=0, fit_edges=False)
        assert [session.add(ONE), session.add(TWO)] == [1, 2]
        for frame, result in zip(frames, tracker.run(frames, [ONE, TWO]), strict=True):
            seen = session.step(frame)
            assert list(seen.objects) == [1, 2]
            assert np.array_equal(seen.ids, result.ids)
            assert [each.score for each in seen.objects.values()] == result.scores.tolist()
            assert np.array_equal(boxes(seen), result.boxes_frame_xyxy)

    @pytest.fixture
    def known(self, monkeypatch: pytest.MonkeyPatch) -> list[Histograms]:
        """The known colours that masks are fitted with, one entry for each mask."""
        given, fit = list[Histograms](), session_module.fit_to_colours

        def spied(frame: NDArray[np.uint8], patch: Patch, threshold: float, colours: Histograms):
            given.append(colours)
            return fit(frame, patch, threshold, colours)

        monkeypatch.setattr(session_module, "fit_to_colours", spied)
        return given

    def test_edges_are_fitted_with_the_colours_of_frames_that_showed_the_object(
        self, known: list[Histograms]
    ) -> None:
        frames = noise(5)
        for lost_below in (0.0, 1.0):  # in the second round it is lost where no box is given
            session = Session(Tracker(Planted()), lost_below=lost_below, keep_lost=True)
            session.add(ONE)
            for index, frame in enumerate(frames):
                if index == 3:
                    session.correct(1, ONE)
                session.step(frame)
        assert [each is None for each in known] == [True, False, False, True, False] * 2
        assert not np.array_equal(known[1], known[2])
        assert not np.array_equal(known[1], known[4])
        assert np.array_equal(known[6], known[1])
        assert np.array_equal(known[7], known[6])
        for each in (known[1], known[2], known[4]):
            assert each.sum(axis=1) == pytest.approx([1, 1])

    def test_an_object_is_never_lost_where_its_box_is_given(self) -> None:
        session = Session(Tracker(Planted(side=64)), lost_below=1.0)
        session.add(ONE)
        seen = [session.step(frame) for frame in noise(2)]
        assert [each.objects[1].lost for each in seen] == [False, True]
        assert [bool(each.ids.any()) for each in seen] == [True, False]
        session.correct(1, ONE)
        assert not session.step(noise(1)[0]).objects[1].lost

    def test_an_object_that_comes_later_is_one_that_starts_there(self, tiny_model: E3SN) -> None:
        tracker, frames = Tracker(tiny_model), noise(4)
        session = Session(tracker, resized_by=math.inf, colour_weight=0, fit_edges=False)
        assert session.step(frames[0]).ids.max() == 0
        session.add(TWO, 7)
        session.step(frames[1])
        assert session.add(ONE) == 8
        seen = [session.step(frame) for frame in frames[2:]]
        alone = list(tracker.run(frames[2:], [ONE]))
        for each, result in zip(seen, alone, strict=True):
            assert list(each.objects) == [7, 8]
            assert np.array_equal(boxes(each)[1], result.boxes_frame_xyxy[0])
            assert set(np.unique(each.ids)) <= {0, 7, 8}

    def test_a_corrected_object_starts_anew_and_leaves_the_others_alone(
        self, tiny_model: E3SN
    ) -> None:
        tracker, frames = Tracker(tiny_model), noise(5)
        session, plain = (
            Session(tracker, resized_by=math.inf, colour_weight=0, fit_edges=False)
            for _ in range(2)
        )
        for each in (session, plain):
            each.add(ONE), each.add(TWO), each.add(THREE)
            each.step(frames[0]), each.step(frames[1])
        session.correct(2, THREE)
        fresh = tracker.run(frames[2:], [THREE])
        for frame, result in zip(frames[2:], fresh, strict=True):
            seen, other = session.step(frame), plain.step(frame)
            assert list(seen.objects) == [1, 2, 3]
            assert np.array_equal(boxes(seen)[1], result.boxes_frame_xyxy[0])
            np.testing.assert_allclose(boxes(seen)[[0, 2]], boxes(other)[[0, 2]], atol=1e-2)

    def test_a_removed_object_leaves_the_others_alone(self, tiny_model: E3SN) -> None:
        tracker, frames = Tracker(tiny_model), noise(4)
        session, plain = Session(tracker), Session(tracker)
        session.add(ONE), session.add(TWO), plain.add(TWO, 2)
        session.step(frames[0]), plain.step(frames[0])
        session.add(THREE, 3)  # not seen yet
        session.remove(1), session.remove(3)
        for frame in frames[1:]:
            seen, other = session.step(frame), plain.step(frame)
            assert seen.objects.keys() == session.numbers == {2}
            np.testing.assert_allclose(boxes(seen), boxes(other), atol=1e-2)
        with pytest.raises(InputError, match="there is no object 1 that could be removed"):
            session.remove(1)

    def test_after_a_box_outside_the_others_go_on_without_it(self) -> None:
        session, frame = Session(Tracker(Planted())), np.zeros((240, 320, 3), np.uint8)
        session.add(ONE), session.step(frame)
        session.add((300, 0, 30, 30))
        with pytest.raises(InputError, match="reaches outside the frame"):
            session.step(frame)
        session.remove(2)
        assert session.step(frame).objects.keys() == {1}

    def test_of_two_objects_that_are_equally_probable_the_first_is_seen(self) -> None:
        session = Session(Tracker(Planted(side=32), TrackConfig(penalty_k=0, window_influence=0)))
        frame = np.zeros((240, 320, 3), np.uint8)
        session.add(TWO, 3)
        session.step(frame)
        session.add(TWO, 9)
        assert set(np.unique(session.step(frame).ids)) == {0, 3}

    def test_numbers_that_cannot_be(self) -> None:
        session = Session(Tracker(Planted()))
        with pytest.raises(InputError, match="there is no object 1 that could be corrected"):
            session.correct(1, ONE)
        session.add(ONE, 254)
        with pytest.raises(InputError, match="there is an object 254 already"):
            session.add(TWO, 254)
        with pytest.raises(InputError, match="object 255 is out of range: masks hold 1 to 254"):
            session.add(TWO)
        for number in (0, 1.5, "1"):
            with pytest.raises(InputError, match=f"object {number} is out of range: masks hold 1"):
                session.add(TWO, number)  # type: ignore[arg-type]

    @pytest.mark.parametrize("lost_below", [-0.1, 5.0, float("nan")])
    def test_a_threshold_that_is_no_j(self, lost_below: float) -> None:
        with pytest.raises(InputError, match="give a predicted J, 0 to 1"):
            Session(Tracker(Planted()), lost_below=lost_below)

    @pytest.mark.parametrize("resized_by", [0.9, -2.0, float("nan")])
    def test_a_factor_that_is_none(self, resized_by: float) -> None:
        with pytest.raises(InputError, match=f"resized_by is {resized_by}; give a factor of 1 or"):
            Session(Tracker(Planted()), resized_by=resized_by)

    @pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
    def test_a_weight_that_is_none(self, weight: float) -> None:
        with pytest.raises(InputError, match=f"colour_weight is {weight}; give a number of 0 or"):
            Session(Tracker(Planted()), colour_weight=weight)

    def test_a_frame_of_another_size(self) -> None:
        session = Session(Tracker(Planted()))
        session.add(ONE)
        session.step(np.zeros((240, 320, 3), np.uint8))
        for corrected in (False, True):  # also where all objects begin anew
            if corrected:
                session.correct(1, ONE)
            with pytest.raises(InputError, match="a frame is 320x239, the first one 320x240"):
                session.step(np.zeros((239, 320, 3), np.uint8))

    def test_numbers_of_numpy_and_boxes_that_change_later(self) -> None:
        session, box = Session(Tracker(Planted())), [*ONE]
        assert type(session.add(box, np.int64(7))) is int  # type: ignore[arg-type]
        box[0] = -50
        assert session.step(np.zeros((240, 320, 3), np.uint8)).objects.keys() == {7}
        session.correct(7, (-50, 0, 30, 30))
        with pytest.raises(InputError, match=r"^box 7 \(-50,0,30,30\) reaches outside"):
            session.step(np.zeros((240, 320, 3), np.uint8))

    def test_a_box_outside_is_named_by_its_object(self) -> None:
        session = Session(Tracker(Planted()))
        session.add(ONE), session.add((300, 0, 30, 30))
        with pytest.raises(InputError, match=r"^box 2 \(300,0,30,30\) reaches outside the frame"):
            session.step(np.zeros((240, 320, 3), np.uint8))

    def test_two_ways_joined(self) -> None:
        first, second, hidden = (Found(np.arange(4.0) + k, 0.5, 0.1 * k, False) for k in range(3))
        one = Seen(np.array([[0, 2, 2, 0]], np.uint8), {2: second})
        other = Seen(np.array([[1, 1, 0, 2]], np.uint8), {1: first, 2: hidden})
        joined = one.joined(other)
        assert joined.ids.tolist() == [[1, 2, 2, 0]]
        assert list(joined.objects.items()) == [(1, first), (2, second)]


class Colours(list[NDArray[np.uint8]]):
    """The colour of each object."""

    def select(self, objects: Sequence[int]) -> Colours:
        return Colours(self[index] for index in objects)


class Seer:
    """A network that sees the pixels of the colour that is in the middle of the template."""

    identity = ""

    def encode_template(self, crops: NDArray[np.uint8]) -> Colours:
        return Colours(crops[:, 63, 63])

    def search(
        self, crops: NDArray[np.uint8], template: Colours
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], list[NDArray[np.bool_]]]:
        cls = np.full((len(crops), 2, 5, 25, 25), -30, np.float32)
        cls[:, 1, 2, 12, 12] = -29  # where nothing is seen, the place stays
        loc = np.zeros((len(crops), 4, 5, 25, 25), np.float32)
        seen = [(crop == colour).all(axis=2) for crop, colour in zip(crops, template, strict=True)]
        for number, mask in enumerate(seen):
            if not mask.any():
                continue
            ys, xs = np.nonzero(mask)
            centre = np.array([xs.min() + xs.max() + 1, ys.min() + ys.max() + 1]) / 2
            size = np.array([np.ptp(xs) + 1, np.ptp(ys) + 1])
            cell = np.clip(np.rint((centre - 127.5) / STRIDE) + 12, 0, 24).astype(int)
            anchor = 127.5 + STRIDE * (cell - 12)
            column, row = cell
            cls[number, 1, 2, row, column] = 30
            loc[number, :, 2, row, column] = *((centre - anchor) / 64), *np.log(size / 64)
        return cls, loc, seen

    def segment(
        self, template: Colours, features: list[NDArray[np.bool_]], cells: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        windows = []
        for mask, (row, column) in zip(features, STRIDE * cells, strict=True):
            around = np.pad(mask, WINDOW_MARGIN)
            windows.append(np.where(around[row : row + 127, column : column + 127], 20, -20))
        return np.array(windows, np.float32)


class Slow(Seer):
    """It corrects a wrong size by half only (of its logarithm), and counts what it searches."""

    searched = 0

    def search(
        self, crops: NDArray[np.uint8], template: Colours
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], list[NDArray[np.bool_]]]:
        self.searched += len(crops)
        cls, loc, seen = super().search(crops, template)
        loc[:, 2:] /= 2
        return cls, loc, seen


class TestResizedObjects:
    RED, GREEN = (200, 30, 30), (30, 160, 30)

    def follow(self, **settings: float) -> tuple[Seen, Slow]:
        """Follow a red square that doubles its size, and a green one that does not."""
        network = Slow()
        session = Session(
            Tracker(network, TrackConfig(penalty_k=0, window_influence=0)), **settings
        )
        session.add((40, 50, 20, 20)), session.add((150, 60, 24, 24))
        seen = Seen(np.zeros((0, 0), np.uint8), {})
        for side in (20, 40):
            frame = np.full((120, 200, 3), 128, np.uint8)
            left, top = 50 - side // 2, 60 - side // 2
            frame[top : top + side, left : left + side] = self.RED
            frame[60:84, 150:174] = self.GREEN
            seen = session.step(frame)
        return seen, network

    @pytest.mark.parametrize(
        ("settings", "power", "searched"), [({"resized_by": math.inf}, 1 / 2, 4), ({}, 3 / 4, 5)]
    )
    def test_a_second_look_corrects_half_of_what_is_left(
        self, settings: dict[str, float], power: float, searched: int
    ) -> None:
        seen, network = self.follow(**settings)
        sides = boxes(seen)[:, 2:] - boxes(seen)[:, :2]
        assert sides[0] == pytest.approx(20 * 2**power, rel=0.03)
        assert sides[1] == pytest.approx(24, rel=0.03)
        assert network.searched == searched  # one more, of the resized object alone

    def test_one_that_shrinks_is_looked_at_again_too(self) -> None:
        network = Slow()
        session = Session(Tracker(network, TrackConfig(penalty_k=0, window_influence=0)))
        session.add((30, 40, 40, 40))
        for side in (40, 20):
            frame = np.full((120, 200, 3), 128, np.uint8)
            frame[60 - side // 2 : 60 + side // 2, 50 - side // 2 : 50 + side // 2] = self.RED
            seen = session.step(frame)
        assert np.ptp(boxes(seen)[0, ::2]) == pytest.approx(20 * 2 ** (1 / 4), rel=0.05)
        assert network.searched == 3

    def test_one_that_changes_in_width_alone_is_looked_at_again(self) -> None:
        for width, searched in ((20, 2), (25, 3)):
            network = Slow()
            session = Session(Tracker(network, TrackConfig(penalty_k=0, window_influence=0)))
            session.add((40, 50, 20, 20))
            for side in (20, width):
                frame = np.full((120, 200, 3), 128, np.uint8)
                frame[50:70, 40 : 40 + side] = self.RED
                session.step(frame)
            assert network.searched == searched

    def test_the_next_frame_begins_there(self) -> None:
        session = Session(Tracker(Slow(), TrackConfig(penalty_k=0, window_influence=0)))
        frame = np.full((120, 200, 3), 128, np.uint8)
        frame[50:70, 40:60] = self.RED
        session.add((40, 50, 20, 20))
        session.step(frame)
        frame[40:80, 30:70] = self.RED
        sides = [np.ptp(boxes(session.step(frame)).reshape(2, 2)[:, 0]) for _ in range(3)]
        left = np.log(40 / np.array(sides))
        assert left[:2] == pytest.approx(np.log(2) / np.array([4, 16]), abs=0.03)
        assert abs(left[2]) < 0.05


class TestLostObjects:
    RED, GREEN = (200, 30, 30), (30, 160, 30)
    LEFT, RIGHT = (30, 50, 20, 20), (92, 50, 20, 20)
    """Search crops are 80 pixels wide here, so those of one do not show the other."""

    def scene(self, width: int = 200, **squares: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        frame = np.full((120, width, 3), 128, np.uint8)
        for colour, (x, y, w, h) in squares.items():
            frame[y : y + h, x : x + w] = getattr(self, colour.rstrip("2").upper())
        return frame

    def session(self, lost_below: float) -> Session:
        config = TrackConfig(penalty_k=0, window_influence=0)
        return Session(Tracker(Seer(), config), lost_below=lost_below)

    def test_one_that_jumps_is_found_and_followed(self) -> None:
        places = [self.LEFT, self.RIGHT, (97, 53, 20, 20)]
        for lost_below in (0.4, 0.0):
            session = self.session(lost_below)
            session.add(self.LEFT)
            seen = [session.step(self.scene(red=place)) for place in places]
            for each, (x, y, w, h) in zip(seen, places, strict=True):
                if lost_below:
                    assert boxes(each)[0] == pytest.approx([x, y, x + w, y + h], abs=1)
                    assert (each.ids[y + 2 : y + h - 2, x + 2 : x + w - 2] == 1).all()
                    assert not each.objects[1].lost
            if not lost_below:
                assert not seen[-1].ids.any()

    def test_what_a_caller_does_with_boxes_changes_nothing(self) -> None:
        shown = [self.LEFT, self.LEFT, None, None, (60, 60, 20, 20)]
        seen = []
        for spoil in (False, True):
            session = self.session(0.4)
            session.add(self.LEFT)
            for place in shown:
                result = session.step(self.scene(**({"red": place} if place else {})))
                seen.append(boxes(result).copy())
                if spoil:
                    result.objects[1].box_frame_xyxy[:] = -1000
        np.testing.assert_array_equal(seen[: len(shown)], seen[len(shown) :])

    def test_one_that_is_hidden_is_found_where_it_comes_back(self) -> None:
        session = self.session(0.4)
        session.add(self.LEFT), session.add((150, 90, 20, 20))
        lost = []
        for place in (self.LEFT, None, None, self.RIGHT):
            squares = {"red": place} if place else {}
            seen = session.step(self.scene(green=(150, 90, 20, 20), **squares))
            lost.append([each.lost for each in seen.objects.values()])
            assert boxes(seen)[1] == pytest.approx([150, 90, 170, 110], abs=1)
        assert lost == [[False, False], [True, False], [True, False], [False, False]]

    def test_one_that_comes_back_far_away_is_found_place_by_place(self) -> None:
        """Crops twice as wide are 160 pixels, and lie 96 pixels apart: five of them in a row."""
        session, far = self.session(0.4), (430, 50, 20, 20)
        session.add(self.LEFT)
        shown = [session.step(self.scene(480, red=place)) for place in (self.LEFT, *[far] * 10)]
        lost = [seen.objects[1].lost for seen in shown]
        assert lost[1]
        found = lost.index(False, 1)
        assert not any(lost[found:])
        assert boxes(shown[-1])[0] == pytest.approx([430, 50, 450, 70], abs=1)

    def test_elsewhere_the_nearest_place_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ten places, in two rows of five, by their distance from where it was seen last."""
        session, elsewhere = self.session(0.4), Session._elsewhere
        looked: list[NDArray[np.float64]] = []

        def noted(self: Session, *given: Any) -> Targets:
            found = elsewhere(self, *given)
            looked.append(found.centre_frame_xy[0])
            return found

        monkeypatch.setattr(Session, "_elsewhere", noted)
        place = (230, 50, 20, 20)
        session.add(place)
        session.step(self.scene(480, red=place))
        for _ in range(10):
            session.step(self.scene(480))
        places = np.array(looked)
        assert len({tuple(each) for each in places.round().tolist()}) == 10
        away = 96 * np.array([0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
        assert np.abs(places[:, 0] - 240) == pytest.approx(away, abs=1)

    def test_the_search_begins_with_the_size_from_before_the_frame(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the frame in which it is lost, a bar turns into a square, as the best anchor does."""
        session, bar, step = self.session(0.4), (30, 50, 60, 15), Tracker.step
        session.add(bar)
        session.step(self.scene(red=bar))
        ((_, before),) = session._groups
        expected = np.hstack([before.centre_frame_xy, 2 * before.size_wh])
        searched: list[bool] = []

        def noted(self: Tracker, frame: NDArray[np.uint8], targets: Targets, *rest: Any) -> Any:
            place = np.hstack([targets.centre_frame_xy, targets.size_wh])
            searched.append(np.allclose(place, expected))
            return step(self, frame, targets, *rest)

        monkeypatch.setattr(Tracker, "step", noted)
        assert session.step(self.scene()).objects[1].lost
        assert searched.count(True) == 1

    def test_elsewhere_it_is_sought_with_the_size_it_last_had(self) -> None:
        """A lost bar turns into a square, as the place of the best anchor does."""
        session, bar = self.session(0.4), (30, 50, 60, 15)
        session.add(bar)
        for squares in ({"red": bar}, {}, {}):
            session.step(self.scene(**squares))
        ((numbers, lost),) = session._groups
        assert np.abs(lost.size_wh - (60, 15)).max() > 3
        assert session._elsewhere(lost, numbers).size_wh == pytest.approx(
            np.array([[60, 15]]), abs=1
        )

    def test_colours_count_as_much_as_is_asked(self) -> None:
        shares = []
        for weight in ({"colour_weight": 0.0}, {"colour_weight": 0.1}, {}):
            config = TrackConfig(penalty_k=0, window_influence=0)
            session = Session(Tracker(Seer(), config), **weight)
            session.add(self.LEFT)
            session.step(self.scene(red=self.LEFT))
            shares.append(session._groups[0][1].shares.max())
        assert shares == pytest.approx([0, 0.1, 0.4], rel=0.01)

    def test_two_that_jump_are_both_found(self) -> None:
        session, below = self.session(0.4), (30, 90, 20, 20)
        session.add(self.LEFT), session.add(below)
        session.step(self.scene(red=self.LEFT, green=below))
        seen = session.step(self.scene(red=self.RIGHT, green=(92, 90, 20, 20)))
        assert [each.lost for each in seen.objects.values()] == [False, False]
        assert boxes(seen) == pytest.approx(
            np.array([[92, 50, 112, 70], [92, 90, 112, 110]]), abs=1
        )

    def test_its_own_wrong_mask_does_not_hide_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its predicted J is low, and high at the same place when a wider crop is searched."""
        values = iter(np.array([[0.9], [0.2], [0.8]]))
        predicted = property(lambda result: next(values))
        monkeypatch.setattr("e3sn_lib.tracking.tracker.FrameResult.predicted_j", predicted)
        monkeypatch.setattr(session_module, "LARGEST_OVERLAP", 0.0)
        session = Session(Tracker(Planted(side=64)), lost_below=0.35, resized_by=math.inf)
        session.add(ONE)
        frame = np.zeros((240, 320, 3), np.uint8)
        session.step(frame)
        seen = session.step(frame)
        assert (seen.objects[1].lost, seen.objects[1].predicted_j) == (False, 0.8)
        assert seen.ids.any()

    def test_a_mask_that_lies_mostly_on_another_object_shows_that_one(self) -> None:
        """Two bars of 40 columns: with 20 in common the lost one is there, with 21 it is not."""
        session, bar = self.session(0.4), np.ones((10, 40), np.float32)
        other = Patch(bar, slice(0, 10), slice(0, 40))
        for common in (20, 21):
            found = Patch(bar, slice(0, 10), slice(40 - common, 80 - common))
            assert session._is_covered(found, {2: other}, (120, 200)) == (common > 20)

    def test_one_that_is_gone_does_not_take_the_place_of_its_twin(self) -> None:
        session = self.session(0.4)
        session.add(self.LEFT), session.add(self.RIGHT)
        session.step(self.scene(red=self.LEFT, red2=self.RIGHT))
        seen = session.step(self.scene(red2=self.RIGHT))
        assert [each.lost for each in seen.objects.values()] == [True, False]
        assert set(np.unique(seen.ids)) == {0, 2}


class TestWording:
    @pytest.mark.parametrize(
        ("text", "prompt"),
        [
            ("1,2,3,4.5", ([1, 2, 3, 4.5], None, None, False)),
            ("-1, 2,3,4", ([-1, 2, 3, 4], None, None, False)),
            ("335 59 170 372", ([335, 59, 170, 372], None, None, False)),
            ("40:1,2,3,4", ([1, 2, 3, 4], 40, None, False)),
            ("40:2=1,2,3,4", ([1, 2, 3, 4], 40, 2, True)),
        ],
    )
    def test_boxes_in_words(self, text: str, prompt: tuple[object, ...]) -> None:
        assert prompt_from_text(text) == prompt

    @pytest.mark.parametrize("text", ["", "1,2,x,4", "2=1,2,3,4", "4:1:1,2,3,4", "-4:1,2,3,4"])
    def test_what_is_no_box(self, text: str) -> None:
        with pytest.raises(ValueError):
            prompt_from_text(text)


class TestMask:
    def test_each_id_gets_the_box_around_it(self, tmp_path: Path) -> None:
        ids = np.zeros((64, 96), np.uint8)
        ids[5:15, 10:30], ids[40:60, 50:55], ids[0, 0] = 3, 7, 255
        write_mask(tmp_path / "m.png", ids)
        prompts = prompts_from_mask(tmp_path / "m.png", (96, 64))
        assert [(each.number, each.box_frame_xywh) for each in prompts] == [
            (3, (10, 5, 20, 10)),
            (7, (50, 40, 5, 20)),
        ]

    def test_a_mask_of_davis_2016_shows_one_object(self, tmp_path: Path) -> None:
        ids = np.zeros((64, 96), np.uint8)
        ids[5:15, 10:30] = 255
        cv2.imwrite(str(tmp_path / "m.png"), ids)
        (prompt,) = prompts_from_mask(tmp_path / "m.png", (96, 64))
        assert (prompt.number, prompt.box_frame_xywh) == (1, (10, 5, 20, 10))

    def test_a_mask_with_soft_edges_or_of_a_jpeg_is_refused(self, tmp_path: Path) -> None:
        hard = np.zeros((64, 96), np.uint8)
        hard[20:40, 30:70] = 255
        two = np.where(np.arange(96) < 50, hard, hard // 2).astype(np.uint8)  # 127 and 255
        for name, mask in {
            "soft.png": cv2.GaussianBlur(hard, (0, 0), 5),
            "resized.png": cv2.resize(hard[:, :45], (96, 64)),
            "made.jpg": hard,
            "two.png": two,
        }.items():
            cv2.imwrite(str(tmp_path / name), mask)
            with pytest.raises(InputError, match=r"values up to 2\d\d: soft edges, or a JPEG"):
                prompts_from_mask(tmp_path / name, (96, 64))

    @pytest.mark.parametrize("value", [1, 200, 255])
    def test_ids_in_16_bits(self, tmp_path: Path, value: int) -> None:
        ids = np.zeros((64, 96), np.uint16)
        ids[5:15, 10:30] = value
        cv2.imwrite(str(tmp_path / "m.png"), ids)
        (prompt,) = prompts_from_mask(tmp_path / "m.png", (96, 64))
        assert (prompt.number, prompt.box_frame_xywh) == (1, (10, 5, 20, 10))
        cv2.imwrite(str(tmp_path / "m.png"), ids + 256)
        with pytest.raises(
            InputError, match=f"has values up to {value + 256}, not 255; save it as"
        ):
            prompts_from_mask(tmp_path / "m.png", (96, 64))

    def test_many_objects_of_a_palette_are_no_soft_edges(self, tmp_path: Path) -> None:
        ids = np.zeros((64, 96), np.uint8)
        ids[2:62:3, 2:90:4] = np.arange(101, 101 + 20 * 22).reshape(20, 22) % 50 + 150
        write_mask(tmp_path / "m.png", ids)
        assert len(prompts_from_mask(tmp_path / "m.png", (96, 64))) == 50

    def test_masks_that_cannot_be(self, tmp_path: Path) -> None:
        write_mask(tmp_path / "m.png", np.zeros((64, 96), np.uint8))
        with pytest.raises(InputError, match="shows no object"):
            prompts_from_mask(tmp_path / "m.png", (96, 64))
        with pytest.raises(InputError, match="is 96x64, but the frames are 96x60"):
            prompts_from_mask(tmp_path / "m.png", (96, 60))


class TestPlaces:
    source = VideoSource(Path("v.mp4"), (320, 240), announced=100)

    def test_new_objects_are_numbered_as_they_are_given(self) -> None:
        given = [Prompt(ONE, 30), Prompt(TWO, 40, 1, True), Prompt(THREE), Prompt(TWO, number=9)]
        boxes = placed([*given, Prompt(ONE)], self.source, range(10, 100, 10))
        assert boxes == {30: {1: ONE}, 40: {1: TWO}, 10: {2: THREE, 9: TWO, 10: ONE}}
        assert first_frames(boxes) == {1: 30, 2: 10, 9: 10, 10: 10}

    def test_an_object_begins_with_its_first_box(self) -> None:
        given = [Prompt(ONE, 40, 2), Prompt(TWO, 20, 2), Prompt(THREE, 30, 2, True)]
        boxes = placed(given, self.source, range(100))
        assert (boxes, first_frames(boxes)) == (
            {40: {2: ONE}, 20: {2: TWO}, 30: {2: THREE}},
            {2: 20},
        )

    @pytest.mark.parametrize(
        ("prompts", "words"),
        [
            ([], "no box is given"),
            ([Prompt((0, 0, 330, 9))], r"box 1 .* reaches outside"),
            ([Prompt(ONE), Prompt((0, 0, 0, 9), 30)], r"box 2 .* has no area"),
            ([Prompt(ONE, 5)], "frame 5 has a box, but it is not among the frames to track"),
            ([Prompt(ONE, 15)], "frame 15 has a box, but it is not among"),
            ([Prompt(ONE, 110)], "frame 110 has a box, but the last frame is 99"),
            ([Prompt(ONE), Prompt(ONE, 20, 2, True)], "correct object 2: no box before frame 20"),
            (
                [Prompt(ONE, 40), Prompt(ONE, 20, 1, True)],
                "correct object 1: no box before frame 20",
            ),
            ([Prompt(ONE), *2 * [Prompt(TWO, 20, 1, True)]], "object 1 has two boxes in frame 20"),
            ([Prompt((0, 0, 1 + n, 9)) for n in range(255)], "object 255 is out of range"),
            ([Prompt(ONE), Prompt(ONE)], "objects 1 and 2 have the same box in frame 10"),
            ([Prompt(ONE), Prompt(ONE, 20, 0, True)], "object 0 is out of range"),
        ],
    )
    def test_boxes_that_cannot_be(self, prompts: list[Prompt], words: str) -> None:
        with pytest.raises(InputError, match=words):
            placed(prompts, self.source, range(10, 200, 10))


def test_clean_masks_are_what_scipy_makes_of_them() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        blobs = ndimage.gaussian_filter(rng.normal(size=(60, 80)), 3)
        ids = np.digitize(blobs, [0.02, 0.08]).astype(np.uint8)
        expected = {}
        for number in (1, 2):
            parts, count = ndimage.label(ids == number, np.ones((3, 3)))
            areas = ndimage.sum_labels(np.ones_like(ids), parts, range(1, count + 1))
            expected[number] = parts == 1 + np.argmax(areas)
        found = cleaned(ids)
        for number, largest in expected.items():
            other = expected[3 - number]
            holes = ndimage.binary_fill_holes(largest) & ~largest & ~other
            assert np.array_equal((found == number) & ~other & ~largest, holes)
            assert (found[largest] == number).all()
