"""The predicted J: features in closed form, order, and what becomes of lost objects."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from planted import Planted

from e3sn_lib.config import TrackConfig
from e3sn_lib.files import read_mask, write_mask
from e3sn_lib.geometry import Patch
from e3sn_lib.model.network import E3SN
from e3sn_lib.tracking.backends import load_export
from e3sn_lib.tracking.confidence import (
    FEATURES,
    LARGEST_LOGIT,
    colour_agreement,
    colour_histograms,
    colour_shares,
    likeness,
    mask_colours,
    mask_features,
    predict_j,
    shipped_table,
)
from e3sn_lib.tracking.own_video import track_video
from e3sn_lib.tracking.session import Session
from e3sn_lib.tracking.tracker import Tracker
from e3sn_study.checkout import SHIPPED, open_tracker

BOX, OTHER = (20.0, 30.0, 60.0, 25.0), (140.0, 90.0, 40.0, 40.0)


def square(side: int, inside: float, outside: float = 0.0) -> NDArray[np.float32]:
    soft = np.full((127, 127), outside, np.float32)
    soft[20 : 20 + side, 30 : 30 + side] = inside
    return soft


class TestFeatures:
    def test_squares_in_closed_form(self) -> None:
        """A square of 10 pixels has 36 on its rim; outside 0.01 it also has 16029 doubtful ones."""
        soft = np.stack([square(10, 1.0), square(10, 0.8), square(10, 0.8, 0.01)])
        found = mask_features(np.array([0.5, 0.9, 1.0]), soft, 0.5, np.array([0, 0.5, 1]))
        assert found[:, 0] == pytest.approx([0, np.log(9), LARGEST_LOGIT])
        assert found[:, 1] == pytest.approx([1, 0.8, 80 / (100 + 160.29)], rel=1e-5)
        assert found[:, 2] == pytest.approx(0.36)
        assert found[:, 3].tolist() == [0, 0.5, 1]

    def test_the_expected_iou_is_that_of_drawn_masks(self) -> None:
        """Of sums over many pixels, the ratio of the means is nearly the mean of the ratios."""
        rng = np.random.default_rng(0)
        soft = rng.random((127, 127), dtype=np.float32) ** 2
        drawn = rng.random((200, 127, 127)) < soft
        mask = soft > 0.5
        ious = (drawn & mask).sum(axis=(1, 2)) / (drawn | mask).sum(axis=(1, 2))
        assert mask_features(np.ones(1), soft[None], 0.5, np.ones(1))[0, 1] == pytest.approx(
            ious.mean(), abs=2e-3
        )

    def test_no_mask_and_certain_scores_are_finite(self) -> None:
        soft, colour = np.zeros((2, 127, 127), np.float32), np.zeros(2)
        found = mask_features(np.array([0.0, 1.0]), soft, 0.5, colour)
        assert found.tolist() == [[-LARGEST_LOGIT, 0, 1, 0], [LARGEST_LOGIT, 0, 1, 0]]
        assert mask_features(np.zeros(0), soft[:0], 0.5, colour[:0]).shape == (0, 4)


class TestColourShares:
    def test_of_an_object_that_has_half_of_the_red(self) -> None:
        """Red is all of the object, and two thirds of its surroundings; both count the same."""
        crop = np.zeros((40, 40, 3), np.uint8)
        crop[:20], crop[20:, :20], crop[20:, 20:] = (200, 30, 30), (30, 160, 30), (207, 17, 31)
        mask = np.zeros((40, 40), bool)
        mask[:10] = True
        found = likeness(crop, colour_shares(colour_histograms(crop, mask)))
        assert found[20:, :20] == pytest.approx(0, abs=1e-3)
        red = (400 + 400) / 1200  # (207, 17, 31) is so near to (200, 30, 30) that it counts as red
        assert found[:20] == pytest.approx(1 / (1 + red), abs=1e-3)
        assert np.array_equal(found[20:, 20:], found[:20, 20:])

    def test_a_colour_that_was_not_there_says_nothing(self) -> None:
        crop = np.full((20, 20, 3), 200, np.uint8)
        shares = colour_shares(colour_histograms(crop, np.eye(20, dtype=bool)))
        assert (likeness(np.zeros((20, 20, 3), np.uint8), shares) == 0.5).all()
        assert likeness(crop, shares) == pytest.approx(0.5)


class TestColours:
    RED, GREEN, BLUE = (200, 30, 30), (30, 160, 30), (30, 30, 200)

    def histogram(self, *stripes: tuple[int, int, int], darker: float = 1.0) -> NDArray[np.float64]:
        """Of a mask over stripes of 20 pixels in a white frame."""
        frame = np.full((120, 200, 3), 255, np.uint8)
        for number, colour in enumerate(stripes):
            frame[40:60, 30 + 20 * number : 50 + 20 * number] = np.multiply(colour, darker)
        soft = np.full((20, 20 * len(stripes)), 0.9, np.float32)
        patch = Patch(soft, slice(40, 60), slice(30, 30 + soft.shape[1]))
        return mask_colours(frame, [patch], 0.5)

    def test_common_stripes_are_the_common_share(self) -> None:
        """Of two equal stripes each, with one in common: sqrt(1/2 1/2)."""
        two, others = self.histogram(self.RED, self.GREEN), self.histogram(self.GREEN, self.BLUE)
        assert colour_agreement(two, two) == pytest.approx(1)
        assert colour_agreement(two, others) == pytest.approx(0.5)
        assert colour_agreement(two, self.histogram(self.BLUE)) == 0
        assert colour_agreement(two, self.histogram(self.RED)) == pytest.approx(np.sqrt(0.5))

    def test_a_shadow_changes_less_than_another_colour(self) -> None:
        lit, dark = (self.histogram((150, 120, 110), darker=each) for each in (1.0, 0.8))
        assert colour_agreement(lit, dark) == pytest.approx(1)

    def test_only_the_mask_counts(self) -> None:
        frame = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
        frame[100:250, 100:300] = self.RED
        soft = np.pad(np.full((150, 200), 0.51, np.float32), 20, constant_values=0.5)
        large = Patch(soft, slice(80, 270), slice(80, 320))
        empty = Patch(0 * soft, *large[1:])
        nothing = Patch(np.zeros((0, 5), np.float32), slice(300, 300), slice(0, 5))
        found = mask_colours(frame, [large, empty, nothing], 0.5)
        assert found.sum(axis=1).tolist() == [1, 0, 0]
        assert colour_agreement(found[:1], self.histogram(self.RED)) == pytest.approx(1)

    def test_the_first_mask_that_is_not_empty_is_remembered(self) -> None:
        """The object is red; then something blue is at its place, then it is back."""
        tracker = Tracker(Planted(side=32), TrackConfig(penalty_k=0, window_influence=0))
        frames = [
            np.full((240, 320, 3), each, np.uint8) for each in (self.RED, self.BLUE, self.RED)
        ]
        results = list(tracker.run(frames, [BOX]))
        assert [each.features[0, 3] for each in results] == pytest.approx([1, 0, 1])
        targets = tracker.start(frames[0], [BOX, OTHER])
        assert not targets.colours.any()
        targets, _ = tracker.step(frames[0], targets, move=False)
        assert np.array_equal(targets.select([1]).colours, targets.colours[1:])


class TestPrediction:
    def test_it_rises_with_score_certainty_and_colour(self) -> None:
        soft = np.stack([square(40, p) for p in (0.55, 0.7, 0.85, 1.0)])
        scores, same = np.array([0.1, 0.5, 0.9, 0.99]), np.full(4, 0.9)
        by_mask = predict_j(mask_features(same, soft, 0.5, same))
        by_score = predict_j(mask_features(scores, soft[[1] * 4], 0.5, same))
        by_colour = predict_j(mask_features(same, soft[[1] * 4], 0.5, scores))
        for predicted in (by_mask, by_score, by_colour):
            assert (np.diff(predicted) > 0).all()
            assert (predicted > 0).all()
            assert (predicted < 1).all()

    def test_an_object_that_is_not_there_has_no_good_mask(self) -> None:
        features = np.array([[0, 1, 0.1, 1], [np.log(0.1 / 0.9), 1, 0.1, 1]])
        table = {"weights": [0.0] * 4, "bias": np.log(4)}
        assert predict_j(features, table).tolist() == pytest.approx([0.8, 0.8 * 0.2])

    def test_the_fit_that_ships_is_complete(self) -> None:
        table = shipped_table()
        assert len(table["weights"]) == len(FEATURES)
        assert 0 < table["lost_below"] < 1
        assert table["origin"]["cross_validated"]["auc_0.1"] > 0.9
        assert table["origin"]["model"] == load_export().identity  # it was fitted for these graphs

    def test_a_step_gives_that_of_its_soft_mask(self) -> None:
        tracker = Tracker(Planted(side=32), TrackConfig(penalty_k=0, window_influence=0))
        frames = [np.zeros((240, 320, 3), np.uint8)] * 2
        soft = np.zeros((1, 127, 127), np.float32)
        soft[0, 48:80, 48:80] = 1  # 31 or 32 pixels wide: the window's middle is a pixel's
        one = np.ones(1)
        sides = [mask_features(one, soft[:, :, : 127 - cut], 0.5, one)[0, 2] for cut in (0, 48)]
        for result in tracker.run(frames, [BOX]):
            score, certainty, rim, colour = result.features[0]
            assert (score, certainty) == (LARGEST_LOGIT, pytest.approx(1, abs=1e-4))
            assert rim == pytest.approx(sides[0], abs=0.005)
            assert colour == pytest.approx(1)
            assert result.predicted_j.tolist() == predict_j(result.features).tolist()


class TestLost:
    def test_masks_are_those_of_the_tracker_unless_asked(self, tiny_model: E3SN) -> None:
        rng = np.random.default_rng(0)
        frames = [rng.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(3)]
        tracker = Tracker(tiny_model)
        once = partial(
            Session, tracker, resized_by=math.inf, colour_weight=0, fit_edges=False
        )  # one step, as the tracker takes
        plain, kept = once(), once(lost_below=1.0, keep_lost=True)
        hidden = once(lost_below=1.0)
        for each in (plain, kept, hidden):
            each.add(BOX), each.add(OTHER)
        for index, (frame, result) in enumerate(
            zip(frames, tracker.run(frames, [BOX, OTHER]), strict=True)
        ):
            seen = [each.step(frame) for each in (plain, kept, hidden)]
            for each, lost in zip(seen, (False, True, True), strict=True):
                found = each.objects.values()
                assert [one.lost for one in found] == [lost and index > 0] * 2
                assert [one.score for one in found] == result.scores.tolist()
                assert [one.predicted_j for one in found] == result.predicted_j.tolist()
                assert np.array_equal(
                    [one.box_frame_xyxy for one in found], result.boxes_frame_xyxy
                )
            assert np.array_equal(seen[0].ids, result.ids)
            assert np.array_equal(seen[1].ids, result.ids)
            assert np.array_equal(seen[2].ids, result.ids if index == 0 else 0 * result.ids)

    def test_what_lies_under_a_lost_object_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tracker = Tracker(Planted(side=32), TrackConfig(penalty_k=0, window_influence=0))
        session = Session(tracker, lost_below=0.5)
        session.add(OTHER), session.add(OTHER)
        predicted = property(lambda result: np.array([0.4, 0.6])[: len(result.scores)])
        monkeypatch.setattr("e3sn_lib.tracking.tracker.FrameResult.predicted_j", predicted)
        session.step(np.zeros((240, 320, 3), np.uint8))
        seen = session.step(np.zeros((240, 320, 3), np.uint8))
        assert set(np.unique(seen.ids)) == {0, 2}
        assert [each.lost for each in seen.objects.values()] == [True, False]

    def test_table_and_notes_name_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "v").mkdir()
        for number in range(4):
            write_mask(tmp_path / "v" / f"{number}.png", np.zeros((64, 96), np.uint8))
        searched = 2 * [[0.1]]  # in wider crops, after 0.2 and after 0.3
        values = iter(np.array([[0.9], [0.2], *searched, [0.3], *searched, [0.8]]))
        predicted = property(lambda result: next(values))
        monkeypatch.setattr("e3sn_lib.tracking.tracker.FrameResult.predicted_j", predicted)
        tracker, out = Tracker(Planted(side=64)), tmp_path / "out"
        tracked = track_video(tracker, tmp_path / "v", [(20, 16, 20, 20)], out, lost_below=0.35)
        assert tracked.lost == {1: [1, 2]}
        assert "object 1 is probably lost in 2 frames, the first is 1" in tracked.notes[0]
        assert "masks of lost objects are empty" in tracked.notes[1]
        with (out / "tracks.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["predicted_j"] for row in rows] == ["0.9", "0.2", "0.3", "0.8"]
        assert [row["lost"] for row in rows] == ["0", "1", "1", "0"]
        assert [int(row["mask_area"]) > 0 for row in rows] == [True, False, False, True]

    @pytest.mark.parametrize("keep_lost", [False, True])
    def test_the_mask_of_an_object_that_is_lost_once_is_kept_on_request(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_lost: bool
    ) -> None:
        (tmp_path / "v").mkdir()
        for number in range(2):
            write_mask(tmp_path / "v" / f"{number}.png", np.zeros((64, 96), np.uint8))
        values = iter(np.array([[0.9], [0.2], [0.1], [0.1]]))
        predicted = property(lambda result: next(values))
        monkeypatch.setattr("e3sn_lib.tracking.tracker.FrameResult.predicted_j", predicted)
        tracker, out = Tracker(Planted(side=64)), tmp_path / "out"
        settings = {"lost_below": 0.35, "keep_lost": keep_lost}
        tracked = track_video(tracker, tmp_path / "v", [(20, 16, 20, 20)], out, **settings)
        assert tracked.notes[0] == "object 1 is probably lost in frame 1"
        assert any("masks of lost objects are empty" in note for note in tracked.notes) != keep_lost
        shown = [read_mask(out / "masks" / f"{number}.png").any() for number in range(2)]
        assert shown == [True, keep_lost]

    def test_a_disc_that_leaves_for_two_frames(
        self, shared_path: Callable[[str], Path], tmp_path: Path
    ) -> None:
        if not SHIPPED.is_file():
            pytest.skip(f"needs {SHIPPED.name}, which is not there")
        frames = shared_path("cases/lost_object/frames")
        lost_below = shipped_table()["lost_below"]
        tracker = open_tracker(precision="fp32")
        tracked = track_video(tracker, frames, [(16, 18, 28, 28)], tmp_path, lost_below=lost_below)
        assert tracked.lost == {1: [3, 4]}
        areas = [int((read_mask(tmp_path / "masks" / f"{k}.png") > 0).sum()) for k in range(6)]
        assert [area == 0 for area in areas] == [False] * 3 + [True] * 2 + [False]
