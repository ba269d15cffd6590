"""Choosing settings of inference: what is tried, what wins, that one pass gives every threshold, and that none is made twice."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from e3sn_lib.config import TrackConfig
from e3sn_lib.data.davis import davis_sequences
from e3sn_lib.data.types import Video
from e3sn_lib.model.network import E3SN
from e3sn_lib.tracking.tracker import Tracker
from e3sn_study.evaluation import choices
from e3sn_study.evaluation.benchmark import evaluate_tracker
from e3sn_study.evaluation.choices import best_choice, overrides_of, sweep
from e3sn_study.records.schema import SETTINGS

GRID = {"size_lr": (0.2, 0.5), "window_influence": (0.1, 0.9), "penalty_k": (0.0,)}


def test_each_setting_is_tried_with_the_others_as_found_best(
    tiny_model: E3SN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def planted(tracker: Tracker, *_: object) -> pd.DataFrame:
        """Best at a size rate of 0.5, a window of 0.4 and a threshold of 0.3; the penalty makes no difference."""
        config = tracker.config
        tried.append((config.size_lr, config.window_influence, config.penalty_k))
        rows = []
        for threshold in (0.3, 0.5):
            score = 1 - abs(config.size_lr - 0.5) - abs(threshold - 0.3)
            score -= abs(config.window_influence - 0.4)
            settings = dict(zip(SETTINGS, (*tried[-1], threshold), strict=True))
            rows.append(settings | {"sequence": "a", "object": 1, "J-Mean": score, "F-Mean": score})
        return pd.DataFrame(rows)

    monkeypatch.setattr(choices, "_one_pass", planted)
    scores = sweep(Tracker(tiny_model, TrackConfig()), [], tmp_path, GRID)
    assert tried == [
        (1.0, 0.4, 0.04),
        (0.2, 0.4, 0.04),
        (0.5, 0.4, 0.04),
        (0.5, 0.1, 0.04),
        (0.5, 0.9, 0.04),
        (0.5, 0.4, 0.0),
    ]
    assert overrides_of(scores) == [
        "track.size_lr=0.5",
        "track.window_influence=0.4",
        "track.penalty_k=0.04",  # of equals the first
        "track.mask_threshold=0.3",
    ]


def test_the_next_setting_is_tried_with_the_best_mean_of_both(
    tiny_model: E3SN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J is best at a size rate of 0.2, the mean of J and F at 0.5."""
    tried, scores = [], {0.2: (0.9, 0.1), 0.5: (0.6, 0.6)}

    def planted(tracker: Tracker, *_: object) -> pd.DataFrame:
        config = tracker.config
        tried.append((config.size_lr, config.window_influence))
        j, f = scores.get(config.size_lr, (0.0, 0.0))
        settings = {name: getattr(config, name) for name in SETTINGS}
        return pd.DataFrame([settings | {"sequence": "a", "object": 1, "J-Mean": j, "F-Mean": f}])

    monkeypatch.setattr(choices, "_one_pass", planted)
    grid = {"size_lr": (0.2, 0.5), "window_influence": (0.1,)}
    sweep(Tracker(tiny_model, TrackConfig()), [], tmp_path, grid)
    assert tried == [(1.0, 0.4), (0.2, 0.4), (0.5, 0.4), (0.5, 0.1)]


def test_a_choice_is_by_the_mean_of_both_measures_over_objects() -> None:
    rows = [(0.5, 1, 0.9, 0.1), (0.5, 2, 0.7, 0.1), (0.4, 1, 0.6, 0.5), (0.4, 2, 0.4, 0.5)]
    scores = pd.DataFrame(rows, columns=["mask_threshold", "object", "J-Mean", "F-Mean"])
    others = {"size_lr": 1.0, "window_influence": 0.4, "penalty_k": 0.04, "sequence": "a"}
    best = best_choice(scores.assign(**others))
    assert (best["mask_threshold"], best["J-Mean"], best["J&F"]) == pytest.approx((0.4, 0.5, 0.5))


@pytest.fixture
def sequences(data_root: Path) -> list[Video]:
    return davis_sequences(data_root / "synthetic", 2017, "train")[:1]


def test_one_pass_gives_what_each_threshold_would(
    tiny_model: E3SN, sequences: list[Video], tmp_path: Path
) -> None:
    scores = sweep(Tracker(tiny_model), sequences, tmp_path / "sweep", {}, (0.1, 0.3))
    assert sorted(scores["mask_threshold"].unique()) == [0.1, 0.3, 0.5]
    for threshold, rows in scores.groupby("mask_threshold"):
        tracker = Tracker(tiny_model, TrackConfig(mask_threshold=float(threshold)))
        alone, _ = evaluate_tracker(tracker, sequences, tmp_path / str(threshold), extras=False)
        assert rows[["J-Mean", "F-Mean"]].to_numpy() == pytest.approx(
            alone[["J-Mean", "F-Mean"]].to_numpy(), abs=1e-6
        )


def test_finished_passes_are_not_made_again(
    tiny_model: E3SN, sequences: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (Tracker(tiny_model), sequences, tmp_path, {"size_lr": (0.5,)}, (0.4,))
    first = sweep(*given)
    assert len(list(tmp_path.iterdir())) == 2  # the scores of each pass, and no masks
    monkeypatch.delattr(choices, "evaluate_tracker")
    pd.testing.assert_frame_equal(sweep(*given), first)
