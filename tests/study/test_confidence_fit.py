"""The fit of the predicted J finds planted coefficients, and its measures are those of scipy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import Planted
from scipy.stats import mannwhitneyu, spearmanr

from e3sn_lib.config import TrackConfig
from e3sn_lib.data.davis import davis_sequences
from e3sn_lib.files import write_mask
from e3sn_lib.metrics.measures import region_similarity
from e3sn_lib.model.network import E3SN
from e3sn_lib.tracking.confidence import FEATURES, predict_j
from e3sn_lib.tracking.tracker import Tracker
from e3sn_study.evaluation import confidence

PLANTED = {"weights": [0.3, 6.0, -2.0, 1.5], "bias": -4.0}


@pytest.fixture
def table() -> pd.DataFrame:
    """Five sequences of 60 to 300 frames, whose J is exactly what planted coefficients predict."""
    rng = np.random.default_rng(0)
    names = np.repeat(list("abcde"), [60, 120, 180, 240, 300])
    features = rng.uniform([0, 0.2, 0.05, 0], [10, 1, 0.6, 1], (len(names), 4))
    found = pd.DataFrame(features, columns=list(FEATURES)).assign(sequence=names)
    return found.assign(j=predict_j(features, PLANTED))


def test_planted_coefficients_are_found(
    table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confidence, "RIDGE", 0.0)
    found = confidence.fit(table)
    assert found["weights"] == pytest.approx(PLANTED["weights"], rel=1e-6)
    assert found["bias"] == pytest.approx(PLANTED["bias"], rel=1e-6)


def test_sequences_count_the_same_whatever_their_length(
    table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confidence, "RIDGE", 0.0)
    noisy = table.assign(j=np.random.default_rng(1).random(len(table)))
    twice = pd.concat([noisy, noisy[noisy["sequence"] == "b"]])
    assert confidence.fit(twice)["bias"] == pytest.approx(confidence.fit(noisy)["bias"])


def test_a_sequence_is_predicted_without_itself(table: pd.DataFrame) -> None:
    before = confidence.cross_validated(table)
    a = (table["sequence"] == "a").to_numpy()
    after = confidence.cross_validated(table.assign(j=table["j"].where(~a, 1 - table["j"])))
    assert np.array_equal(before[a], after[a])
    assert not np.allclose(before[~a], after[~a])


def test_agreement_is_that_of_scipy() -> None:
    rng = np.random.default_rng(2)
    j, predicted = rng.random(200).round(1), rng.random(200)
    found = confidence.agreement(j, predicted)
    assert found["rank_correlation"] == pytest.approx(spearmanr(j, predicted).statistic)
    assert found["auc_0.5"] == confidence.area_under_curve(j < 0.5, -predicted)
    assert confidence.agreement(j, j)["auc_0.1"] == 1


def test_the_area_under_the_curve_is_that_of_a_rank_test() -> None:
    rng = np.random.default_rng(0)
    values, wanted = rng.integers(0, 20, 300).astype(float), rng.random(300) < 0.2
    statistic = mannwhitneyu(values[wanted], values[~wanted]).statistic
    expected = statistic / (wanted.sum() * (~wanted).sum())
    assert confidence.area_under_curve(wanted, values) == pytest.approx(expected)
    assert np.isnan(confidence.area_under_curve(wanted & False, values))


def test_few_good_frames_count_as_lost() -> None:
    j = np.array([0.9] * 200 + [0.1] * 50)
    predicted = np.array([0.25] + [0.35] * 2 + [0.9] * 197 + [0.2] * 50)
    assert confidence.choose_lost_below(j, predicted) == 0.3


def test_j_of_each_frame_is_that_of_the_tracker(tiny_model: E3SN, data_root: Path) -> None:
    sequence = davis_sequences(data_root / "synthetic", 2016, "val")[0]
    table = confidence.measure(Tracker(tiny_model), [sequence])
    assert table["frame"].tolist() == list(range(1, len(sequence)))
    ys, xs = np.nonzero(sequence.mask(0))
    box = (xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min())
    frames = (sequence.frame(index) for index in range(len(sequence)))
    last = list(Tracker(tiny_model).run(frames, [box]))[-1]
    expected = region_similarity(last.ids, sequence.mask(len(sequence) - 1))
    assert table["j"].iloc[-1] == pytest.approx(expected)
    assert table[[*FEATURES]].iloc[-1].tolist() == pytest.approx(last.features[0].tolist())


def test_numbers_of_objects_change_no_j(data_root: Path, tmp_path: Path) -> None:
    videos = davis_sequences(data_root / "synthetic", 2017, "val")
    video = next(each for each in videos if len(each.object_ids()) == 2)
    for index, path in enumerate(video.mask_paths):
        write_mask(tmp_path / path.name, 3 * video.mask(index) + 2 * (video.mask(index) > 0))
    renamed = replace(video, mask_paths=tuple(tmp_path / path.name for path in video.mask_paths))
    found, other = (
        confidence.measure(Tracker(Planted(), TrackConfig()), [each]) for each in (video, renamed)
    )
    assert other["object"].tolist() == (3 * found["object"] + 2).tolist()
    assert other["j"].tolist() == found["j"].tolist()
    assert found["j"].max() > 0.1


def test_played_fast_backwards_frames_keep_their_masks(data_root: Path, tmp_path: Path) -> None:
    video = davis_sequences(data_root / "synthetic", 2016, "train")[0]
    blank = tmp_path / video.mask_paths[-1].name
    write_mask(blank, np.zeros_like(video.mask(0)))
    leaves = replace(video, mask_paths=(*video.mask_paths[:-1], blank))
    for sequence, numbers in ((video, [4, 1]), (leaves, [3, 0])):
        played = confidence.fast_backwards(sequence)
        assert played.frame_paths == tuple(video.frame_paths[number] for number in numbers)
        assert played.mask_paths == tuple(video.mask_paths[number] for number in numbers)


def test_no_number_is_chosen_on_what_is_tested(
    tiny_model: E3SN, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fitted is told apart from what is tested, and is judged by predictions of other fits, here 0.25 throughout."""
    train, val = (davis_sequences(data_root / "synthetic", 2016, each) for each in ("train", "val"))
    fitted, chosen = list[set[str]](), list[list[list[float]]]()
    fit, choose = confidence.fit, confidence.choose_lost_below

    def noted_fit(table: pd.DataFrame) -> dict[str, Any]:
        fitted.append({*table["split"]})
        return fit(table)

    def noted_choice(j: confidence.Floats, predicted: confidence.Floats) -> float:
        chosen.append([j.tolist(), predicted.tolist()])
        return choose(j, predicted)

    monkeypatch.setattr(confidence, "fit", noted_fit)
    monkeypatch.setattr(confidence, "choose_lost_below", noted_choice)
    monkeypatch.setattr(confidence, "cross_validated", lambda table: np.full(len(table), 0.25))
    table, numbers, found = confidence.fit_and_test(Tracker(tiny_model), train, val)
    assert fitted == [{"train", "backwards"}]
    assert (table.loc[table["split"] != "val", "predicted_j"] == 0.25).all()
    assert (table.loc[table["split"] == "val", "predicted_j"] != 0.25).all()
    on_train = table.loc[table["split"] == "train", "j"].tolist()
    assert chosen == [[on_train, [0.25] * len(on_train)]]
    assert {*table.loc[table["split"] == "val", "sequence"]} == {each.name for each in val}
    assert list(found) == ["train", "backwards", "val"]
    assert numbers["origin"]["cross_validated"] == found["train"]
    on_val = table[table["split"] == "val"]
    expected = predict_j(on_val[[*FEATURES]].to_numpy(), numbers)
    assert on_val["predicted_j"].to_numpy() == pytest.approx(expected)
