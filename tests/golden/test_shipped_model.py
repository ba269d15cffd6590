"""The shipped model on real frames: its scores are those on record, its other forms agree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from e3sn_lib.data.davis import davis_sequences
from e3sn_lib.data.types import Video
from e3sn_lib.geometry import box_from_mask, box_xywh
from e3sn_lib.model.weights import load_model
from e3sn_lib.tracking.backends import MANIFEST, PACKAGED, OnnxBackend
from e3sn_lib.tracking.tracker import FrameResult, Tracker
from e3sn_study.checkout import ROOT, SHIPPED
from e3sn_study.evaluation.benchmark import MODEL, score_method


@pytest.fixture(scope="module")
def video(shared_path: Callable[[str], Path]) -> Video:
    return davis_sequences(shared_path("data/DAVIS_mini"), 2016, "val", ["car-shadow"])[0]


def tracked(video: Video, frames: int, tracker: Tracker) -> list[FrameResult]:
    box = box_from_mask(video.mask(0) == 1)
    assert box is not None
    shown = (video.frame(index) for index in range(frames))
    return list(tracker.run(shown, [box_xywh(box)]))


@pytest.fixture(scope="module")
def expected(video: Video) -> list[FrameResult]:
    torch.set_num_threads(1)
    return tracked(video, len(video), Tracker(load_model(SHIPPED)))


def least_overlap(one: list[FrameResult], other: list[FrameResult]) -> float:
    """Return the smallest intersection over union of two trackers' masks."""
    pairs = [(first.ids > 0, second.ids > 0) for first, second in zip(one, other, strict=True)]
    return min(float((first & second).sum() / (first | second).sum()) for first, second in pairs)


def test_a_sequence_scores_what_is_on_record(video: Video, expected: list[FrameResult]) -> None:
    with safe_open(SHIPPED, "pt") as file:
        run = file.metadata()["run"]
    record = pd.read_csv(ROOT / "reports" / "cpu" / "results" / "davis2016" / f"{run}.csv")
    scored = record[(record["sequence"] == video.name) & (record["method"] == MODEL)].iloc[0]
    found = score_method(MODEL, [result.ids for result in expected], video).iloc[0]
    for measure in (
        "J-Mean",
        "F-Mean",
    ):  # a tracker feeds on its own boxes: one thread instead of two changes F by 0.014
        assert found[measure] == pytest.approx(scored[measure], abs=0.03)


def test_half_precision_gives_nearly_the_same_masks(
    video: Video, expected: list[FrameResult]
) -> None:
    half = tracked(video, 6, Tracker(load_model(SHIPPED), precision="bf16"))
    assert least_overlap(expected[:6], half) > 0.9
    assert half[0].soft_masks.dtype == np.float32


def test_the_shipped_export_is_this_model_and_gives_nearly_the_same_masks(
    video: Video, expected: list[FrameResult]
) -> None:
    if not (PACKAGED / MANIFEST).is_file():
        pytest.skip("no exported model is in the package")
    export = OnnxBackend(PACKAGED)
    assert export.manifest.precision == "int8"
    digest = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert export.manifest.model["sha256"] == digest
    assert least_overlap(expected[:6], tracked(video, 6, Tracker(export))) > 0.9
