"""Looking into results and the network: masks read back, ranks by rule, and maps that agree with what the network uses."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from e3sn_lib.config import Profile
from e3sn_lib.data.pairs import PairDataset
from e3sn_lib.data.sources import open_evaluation, open_train_sets
from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import write_mask
from e3sn_lib.metrics.measures import region_similarity
from e3sn_lib.model.network import E3SN
from e3sn_study.evaluation.benchmark import frame_scores, read_masks
from e3sn_study.evaluation.inspection import (
    level_answers,
    overlaid,
    predict_windows,
    slider_frames,
    spread_by_score,
)


@pytest.fixture(scope="module")
def profile(tiny_profile: Callable[..., Profile]) -> Profile:
    return tiny_profile()


@pytest.fixture(scope="module")
def video(profile: Profile) -> Video:
    return open_evaluation(profile.data, "davis2016")[0]


@pytest.fixture
def truth(video: Video, tmp_path: Path) -> Path:
    for index, path in enumerate(video.frame_paths):
        write_mask(tmp_path / video.name / f"{path.stem}.png", video.mask(index))
    return tmp_path


def test_masks_are_read_back_and_perfect_ones_score_1(video: Video, truth: Path) -> None:
    assert all(
        np.array_equal(mask, video.mask(index))
        for index, mask in enumerate(read_masks(truth, video))
    )
    assert np.array_equal(next(read_masks(truth, video, [3])), video.mask(3))
    scores = frame_scores(truth, video)
    assert len(scores) == len(video) - 2
    assert (scores[["J", "F"]] == 1).all(axis=None)


def test_overlaid_methods_stand_side_by_side(video: Video, truth: Path) -> None:
    views = list(overlaid(video, {"E3SN": truth, "other": truth}))
    height, width = video.frame(0).shape[:2]
    assert [view.shape for view in views] == [(height, 2 * width, 3)] * len(video)
    changed = (views[2][:, :width] != video.frame(2)).any(axis=2)
    assert changed[video.mask(2) > 0].mean() > 0.95
    assert not np.array_equal(views[2][:, :width], views[2][:, width:])  # their names differ


@pytest.mark.parametrize(
    ("count", "expected"),
    [(2, ["e", "a"]), (3, ["e", "c", "a"]), (5, list("edcba")), (9, list("edcba"))],
)
def test_sequences_are_spread_from_best_to_worst(count: int, expected: list[str]) -> None:
    rows = [(name, "mask", place) for place, name in enumerate("abcde")] + [
        ("a", "true box filled", 99)
    ]
    assert (
        spread_by_score(pd.DataFrame(rows, columns=["sequence", "method", "J-Mean"]), count)
        == expected
    )


def test_level_answers_show_the_target_where_it_is(
    video: Video, tiny_model: E3SN, tmp_path: Path
) -> None:
    search, box, maps = level_answers(tiny_model, video, 2)
    assert search.shape == (255, 255, 3)
    assert {name: answer.shape for name, answer in maps.items()} == {
        "conv2": (49, 49),
        "conv3": (25, 25),
        "conv4": (25, 25),
        "fused": (49, 49),
    }
    assert all(60 < middle < 195 for middle in ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    assert 0.5 < np.sqrt((box[2] - box[0]) * (box[3] - box[1])) / 64 < 1.5
    write_mask(tmp_path / "blank.png", np.zeros_like(video.mask(1)))
    masks = (video.mask_paths[0], tmp_path / "blank.png", *video.mask_paths[2:])
    with pytest.raises(InputError, match="object 1 is not in frame 1"):
        level_answers(tiny_model, replace(video, mask_paths=masks), 2)


def test_windows_are_predicted_for_every_sample_of_a_pair(
    profile: Profile, tiny_model: E3SN
) -> None:
    dataset = PairDataset(
        open_train_sets(profile.data).opened, profile, profile.stages["end_to_end"]
    )
    for bias, expected in ((1e4, True), (-1e4, False)):
        model = copy.deepcopy(tiny_model)
        torch.nn.init.constant_(model.refine.post2.bias, bias)
        predicted = predict_windows(model, dataset[0])
        assert (predicted.shape, predicted.dtype) == ((4, 127, 127), np.bool_)
        assert (predicted == expected).all()


def test_frames_of_the_slider_have_outlines_that_fill_to_the_masks(
    video: Video, truth: Path
) -> None:
    box = np.zeros_like(video.mask(0))
    box[10:30, 20:60] = 1
    for path in video.frame_paths:
        write_mask(truth / "boxes" / video.name / f"{path.stem}.png", box)
    (shown,) = slider_frames([video], truth, truth / "boxes", count=3)
    height, width = box.shape
    assert (shown["name"], shown["size"]) == (video.name, (width, height))
    assert [frame["number"] for frame in shown["frames"]] == [
        0,
        round((len(video) - 1) / 2),
        len(video) - 1,
    ]
    assert [frame["j"] for frame in shown["frames"]] == [None, 100, 100]
    for frame in shown["frames"]:
        lines = [
            np.array(line.split(), int).reshape(-1, 1, 2)
            for line in frame["mask"].replace("Z", "").split("M")[1:]
        ]
        filled = cv2.drawContours(np.zeros((height, width), np.uint8), lines, -1, 1, cv2.FILLED)
        assert region_similarity(filled, (video.mask(frame["number"]) > 0).astype(np.uint8)) > 0.9
        assert frame["truth"] == frame["mask"]
        assert frame["box"] == (20, 10, 40, 20)
        with Image.open(BytesIO(base64.b64decode(frame["image"]))) as image:
            assert image.width == min(width, 400)
