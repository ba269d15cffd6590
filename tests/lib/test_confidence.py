"""The predicted J: features in closed form, order, and what becomes of lost objects."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from planted import Planted

from e3sn_lib.config import TrackConfig
from e3sn_lib.files import read_mask, write_mask
from e3sn_lib.model.network import E3SN
from e3sn_lib.tracking.confidence import (
    FEATURES,
    LARGEST_LOGIT,
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
        found = mask_features(np.array([0.5, 0.9, 1.0]), soft, 0.5)
        assert found[:, 0] == pytest.approx([0, np.log(9), LARGEST_LOGIT])
        assert found[:, 1] == pytest.approx([1, 0.8, 80 / (100 + 160.29)], rel=1e-5)
        assert found[:, 2] == pytest.approx(0.36)

    def test_the_expected_iou_is_that_of_drawn_masks(self) -> None:
        """Of sums over many pixels, the ratio of the means is nearly the mean of the ratios."""
        rng = np.random.default_rng(0)
        soft = rng.random((127, 127), dtype=np.float32) ** 2
        drawn = rng.random((200, 127, 127)) < soft
        mask = soft > 0.5
        ious = (drawn & mask).sum(axis=(1, 2)) / (drawn | mask).sum(axis=(1, 2))
        assert mask_features(np.ones(1), soft[None], 0.5)[0, 1] == pytest.approx(
            ious.mean(), abs=2e-3
        )

    def test_no_mask_and_certain_scores_are_finite(self) -> None:
        found = mask_features(np.array([0.0, 1.0]), np.zeros((2, 127, 127), np.float32), 0.5)
        assert found.tolist() == [[-LARGEST_LOGIT, 0, 1], [LARGEST_LOGIT, 0, 1]]
        assert mask_features(np.zeros(0), np.zeros((0, 127, 127), np.float32), 0.5).shape == (0, 3)


class TestPrediction:
    def test_it_rises_with_score_and_certainty(self) -> None:
        soft = np.stack([square(40, p) for p in (0.55, 0.7, 0.85, 1.0)])
        by_mask = predict_j(mask_features(np.full(4, 0.9), soft, 0.5))
        by_score = predict_j(mask_features(np.array([0.1, 0.5, 0.9, 0.99]), soft[[1] * 4], 0.5))
        for predicted in (by_mask, by_score):
            assert (np.diff(predicted) > 0).all()
            assert (predicted > 0).all()
            assert (predicted < 1).all()

    def test_an_object_that_is_not_there_has_no_good_mask(self) -> None:
        features = np.array([[0, 1, 0.1], [np.log(0.1 / 0.9), 1, 0.1]])
        table = {"weights": [0.0, 0.0, 0.0], "bias": np.log(4)}
        assert predict_j(features, table).tolist() == pytest.approx([0.8, 0.8 * 0.2])

    def test_the_fit_that_ships_is_complete(self) -> None:
        table = shipped_table()
        assert len(table["weights"]) == len(FEATURES)
        assert 0 < table["lost_below"] < 1
        assert table["origin"]["cross_validated"]["auc_0.1"] > 0.9

    def test_a_step_gives_that_of_its_soft_mask(self) -> None:
        tracker = Tracker(Planted(side=32), TrackConfig(penalty_k=0, window_influence=0))
        frames = [np.zeros((240, 320, 3), np.uint8)] * 2
        soft = np.zeros((1, 127, 127), np.float32)
        soft[0, 48:80, 48:80] = 1  # 31 or 32 pixels wide: the window's middle is a pixel's
        sides = [mask_features(np.ones(1), soft[:, :, : 127 - cut], 0.5)[0, 2] for cut in (0, 48)]
        for result in tracker.run(frames, [BOX]):
            score, certainty, rim = result.features[0]
            assert (score, certainty) == (LARGEST_LOGIT, pytest.approx(1, abs=1e-4))
            assert rim == pytest.approx(sides[0], abs=0.005)
            assert result.predicted_j.tolist() == predict_j(result.features).tolist()


class TestLost:
    def test_masks_are_those_of_the_tracker_unless_asked(self, tiny_model: E3SN) -> None:
        rng = np.random.default_rng(0)
        frames = [rng.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(3)]
        tracker = Tracker(tiny_model)
        plain, kept = Session(tracker), Session(tracker, lost_below=1.0, keep_lost=True)
        hidden = Session(tracker, lost_below=1.0)
        for each in (plain, kept, hidden):
            each.add(BOX), each.add(OTHER)
        for frame, result in zip(frames, tracker.run(frames, [BOX, OTHER]), strict=True):
            seen = [each.step(frame) for each in (plain, kept, hidden)]
            for each, lost in zip(seen, (False, True, True), strict=True):
                found = each.objects.values()
                assert [one.lost for one in found] == [lost, lost]
                assert [one.score for one in found] == result.scores.tolist()
                assert [one.predicted_j for one in found] == result.predicted_j.tolist()
                assert np.array_equal(
                    [one.box_frame_xyxy for one in found], result.boxes_frame_xyxy
                )
            assert np.array_equal(seen[0].ids, result.ids)
            assert np.array_equal(seen[1].ids, result.ids)
            assert not seen[2].ids.any()

    def test_what_lies_under_a_lost_object_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tracker = Tracker(Planted(side=32), TrackConfig(penalty_k=0, window_influence=0))
        session = Session(tracker, lost_below=0.5)
        session.add(OTHER), session.add(OTHER)
        monkeypatch.setattr(
            "e3sn_lib.tracking.tracker.FrameResult.predicted_j", np.array([0.4, 0.6])
        )
        seen = session.step(np.zeros((240, 320, 3), np.uint8))
        assert set(np.unique(seen.ids)) == {0, 2}
        assert [each.lost for each in seen.objects.values()] == [True, False]

    def test_table_and_notes_name_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "v").mkdir()
        for number in range(4):
            write_mask(tmp_path / "v" / f"{number}.png", np.zeros((64, 96), np.uint8))
        values = iter(np.array([[0.9], [0.2], [0.3], [0.8]]))
        predicted = property(lambda result: next(values))
        monkeypatch.setattr("e3sn_lib.tracking.tracker.FrameResult.predicted_j", predicted)
        tracker, out = Tracker(Planted(side=64)), tmp_path / "out"
        tracked = track_video(tracker, tmp_path / "v", [(20, 16, 20, 20)], out, lost_below=0.35)
        assert tracked.lost == {1: [1, 2]}
        assert "object 1 is probably lost in 2 frames, the first is 1" in tracked.notes[0]
        with (out / "tracks.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["predicted_j"] for row in rows] == ["0.9", "0.2", "0.3", "0.8"]
        assert [row["lost"] for row in rows] == ["0", "1", "1", "0"]
        assert [int(row["mask_area"]) > 0 for row in rows] == [True, False, False, True]

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
