"""J and F of a published method's masks on DAVIS-2016 val equal the official evaluator's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from e3sn_lib.data.types import Video
from e3sn_lib.files import read_mask
from e3sn_lib.metrics.scoring import score_folder, score_sequence, summarise, write_official_csvs

SOURCE = "davisvideochallenge/davis2017-evaluation, OSVOS on DAVIS-2016 val"
FIVE_DECIMALS = 5e-6


@pytest.fixture(scope="module")
def masks(golden: Path) -> Path:
    return golden / "davis2016_val/osvos"


@pytest.fixture(scope="module")
def annotations(golden: Path) -> Path:
    return golden / "davis2016_val/Annotations/480p"


@pytest.fixture(scope="module")
def official(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "osvos_union_on_davis16.json").read_text())


@pytest.fixture(scope="module")
def per_frame(golden: Path, masks: Path, annotations: Path) -> pd.DataFrame:
    return score_folder(masks, annotations, (golden / "davis2016_val/val.txt").read_text().split())


def test_mean_recall_and_decay_of_the_set(per_frame, official, record_deviation) -> None:
    overall = summarise(per_frame)[1]
    expected = {
        f"{measure}-{name}": official["glob"][measure][name[0]]
        for measure in "JF"
        for name in ("Mean", "Recall", "Decay")
    }
    largest = max(abs(overall[name] - value) for name, value in expected.items())
    record_deviation(
        "J and F mean, recall and decay of the set", SOURCE, largest, FIVE_DECIMALS, len(expected)
    )
    assert largest < FIVE_DECIMALS


def test_every_sequence(per_frame, official, record_deviation) -> None:
    per_object = summarise(per_frame)[0].set_index("sequence")
    assert set(per_object.index) == set(official["per"])
    assert per_object["object"].eq(1).all()
    assert per_object["frames"].sum() == 1376 - 2 * 20
    expected = pd.DataFrame(official["per"], index=["J-Mean", "F-Mean"]).T
    largest = float((per_object[expected.columns] - expected).abs().to_numpy().max())
    record_deviation(
        "J and F mean of every sequence", SOURCE, largest, FIVE_DECIMALS, expected.size
    )
    assert largest <= FIVE_DECIMALS


def test_the_result_says_that_ids_were_merged(per_frame) -> None:
    assert per_frame.attrs["notes"] == [
        "the truth is 0/255 as in DAVIS-2016: one object per sequence, predicted ids above 0 merged into it"
    ]


def test_a_stream_of_masks_scores_as_the_folder_does(per_frame, masks, annotations) -> None:
    paths = tuple(sorted((annotations / "car-shadow").glob("*.png")))
    stream = (read_mask(masks / "car-shadow" / path.name) for path in paths)
    streamed = score_sequence(stream, Video("car-shadow", paths, paths, merge_ids=True))
    expected = per_frame[per_frame["sequence"] == "car-shadow"].reset_index(drop=True)
    pd.testing.assert_frame_equal(streamed, expected, check_exact=True)


def test_the_csv_of_the_set_holds_the_official_numbers(per_frame, official, tmp_path) -> None:
    write_official_csvs(tmp_path, per_frame, "val")
    overall = pd.read_csv(tmp_path / "global_results-val.csv").iloc[0]
    assert overall["J-Mean"] == pytest.approx(official["glob"]["J"]["M"], abs=FIVE_DECIMALS)
    assert overall["F-Decay"] == pytest.approx(official["glob"]["F"]["D"], abs=FIVE_DECIMALS)
    sequences = pd.read_csv(tmp_path / "per-sequence_results-val.csv").set_index("Sequence")
    assert sequences.loc["blackswan_1"].to_numpy() == pytest.approx(
        official["per"]["blackswan"], abs=2 * FIVE_DECIMALS
    )
