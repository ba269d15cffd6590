"""The model in ``models/`` on real frames: it scores what the report says, and half precision finds the same object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from e3sn_lib.data.davis import davis_sequences
from e3sn_lib.data.types import Video
from e3sn_lib.geometry import box_from_mask, box_xywh
from e3sn_lib.model.weights import load_model
from e3sn_lib.tracking.tracker import FrameResult, Tracker
from e3sn_study.checkout import ROOT, SHIPPED
from e3sn_study.evaluation.benchmark import MODEL, score_method


@pytest.fixture
def video(shared_path: Callable[[str], Path]) -> Video:
    return davis_sequences(shared_path("data/DAVIS_mini"), 2016, "val", ["car-shadow"])[0]


def tracked(video: Video, frames: int, precision: str = "fp32") -> list[FrameResult]:
    model, profile = load_model(SHIPPED)
    box = box_from_mask(video.mask(0) == 1)
    assert box is not None
    shown = (video.frame(index) for index in range(frames))
    return list(Tracker(model, profile.track, precision=precision).run(shown, [box_xywh(box)]))


def test_a_sequence_scores_what_is_on_record(video: Video) -> None:
    with safe_open(SHIPPED, "pt") as file:
        run = file.metadata()["run"]
    record = pd.read_csv(ROOT / "reports" / "cpu" / "results" / "davis2016" / f"{run}.csv")
    expected = record[(record["sequence"] == video.name) & (record["method"] == MODEL)].iloc[0]
    found = score_method(MODEL, [result.ids for result in tracked(video, len(video))], video).iloc[
        0
    ]
    for measure in (
        "J-Mean",
        "F-Mean",
    ):  # a tracker feeds on its own boxes: one thread instead of two changes F by 0.014
        assert found[measure] == pytest.approx(expected[measure], abs=0.03)


def test_half_precision_gives_nearly_the_same_masks(video: Video) -> None:
    for full, half in zip(tracked(video, 6), tracked(video, 6, "bf16"), strict=True):
        both, either = np.count_nonzero(full.ids & half.ids), np.count_nonzero(full.ids | half.ids)
        assert both / either > 0.9
        assert half.soft_masks.dtype == np.float32
