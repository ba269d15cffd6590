"""The study's notebooks in the least setting, in order, in one report: that they run, and what they record."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from e3sn_lib.data.synthetic import VERSION, synthesise
from e3sn_study.notebooks import NotebookRun, run_notebook, to_html
from e3sn_study.records import Records, reference
from e3sn_study.tables.cells import to_markdown
from e3sn_study.tables.claims import claims

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SETTINGS = [
    "model.channels=16",
    "train.pairs=4",
    "train.batch_size=1",
    "train.log_every=2",
    "train.precision=fp32",
    "study.ablation=[train.pairs=2]",
]
MORE = {"05_ablation_sampling": {"counts": [4, 16]}}
REAL = {"your_video", "your_video_clip"}
"""Pictures of a real video, whatever the profile."""
NAMES = [
    "01_data_inspection",
    "02_training",
    "03_siammask_baseline",
    "04_evaluation",
    "05_ablation_sampling",
    "06_ablation_aggregation",
    "07_qualitative",
    "08_your_video",
]

pytestmark = pytest.mark.notebook


class Studied(NamedTuple):
    """A finished run of all notebooks."""

    report: Path
    results: list[NotebookRun]

    def record(self, name: str) -> dict[str, Any]:
        return json.loads((self.report / "results" / f"{name}.json").read_text())

    def outputs(self, name: str) -> list[dict[str, Any]]:
        cells = json.loads((self.report / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        return [output for cell in cells for output in cell.get("outputs", ())]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    root = tmp_path_factory.mktemp("study")
    synthesise(root / "data" / "synthetic", train_clips=3, val_clips=3, frames=(5, 5))
    report, runs = root / "report", root / "runs"
    parameters = {
        "profile": "smoke",
        "data": root / "data",
        "runs": runs,
        "report": report,
        "overrides": SETTINGS,
    }
    more = MORE | {"08_your_video": {"out": root / "own_video"}}
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        results = [
            run_notebook(
                NOTEBOOKS / f"{name}.ipynb",
                report / "notebooks" / f"{name}.ipynb",
                parameters | more.get(name, {}),
            )
            for name in NAMES
        ]
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        os.environ.update({"OMP_NUM_THREADS": before} if before is not None else {})
    return Studied(report, results)


def test_all_notebooks_pass(studied: Studied) -> None:
    assert [(run.name, run.status, run.error) for run in studied.results] == [
        (name, "passed", "") for name in NAMES
    ]


def test_every_notebook_of_the_study_is_run_here() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb")} == set(NAMES)


def test_what_was_inspected(studied: Studied) -> None:
    record = studied.record("01_data_inspection")
    assert record["training sets"] == [f"synthetic-v{VERSION}-train"]
    assert record["objects to train on"] == 3
    assert record["sets absent"] == []
    assert 0 < record["negative pairs"] < record["pairs looked at"]
    assert record["share with all positives"] + record["images without a positive"] <= 1
    assert 3 < record["positives per image"] < 16


def test_what_was_trained(studied: Studied) -> None:
    e3sn, siammask = studied.record("02_training"), studied.record("03_siammask_baseline")
    assert (e3sn["stages"], e3sn["pairs"], e3sn["files replaced"]) == (1, 4, 0)
    assert sum(e3sn["level weights"].values()) == pytest.approx(1, abs=1e-5)
    assert (siammask["stages"], siammask["pairs"], siammask["equal pairs"]) == (
        ["base", "sharp"],
        4,
        True,
    )
    assert sum(siammask["minutes of each stage"]) == pytest.approx(siammask["minutes"])


def test_what_was_scored(studied: Studied) -> None:
    record = studied.record("04_evaluation")
    assert len(record["sequences"]) == 2
    assert all(0 <= record[name] <= 100 for name in ("J mean", "F mean"))
    gain, low, high = record["J gain over the still mask, 95 % interval"]
    assert gain == pytest.approx(record["J mean"] - record["J mean, first mask held still"])
    assert low <= gain <= high
    for benchmark in ("davis2016", "davis2017"):
        names = {path.name for path in (studied.report / "results" / benchmark).iterdir()}
        assert any(name.startswith("smoke-siammask-seed0-") for name in names)
        assert "not_run.txt" not in names


def test_what_was_ablated(studied: Studied) -> None:
    sampling, aggregation = (
        studied.record("05_ablation_sampling"),
        studied.record("06_ablation_aggregation"),
    )
    assert list(sampling["peak memory of training, MiB"]) == ["siammask", "e3sn-s", "e3sn"]
    assert list(sampling["peak memory of a step by samples, MiB"]) == ["4", "16"]
    assert 0 < sampling["memory with 4 samples, share of that with the most"] < 1
    assert aggregation["pairs"] == [4, 4]
    assert aggregation["levels shown"] == ["conv2", "conv3", "conv4", "fused"]
    assert (len(sampling["short runs"]), len(aggregation["short runs"])) == (7, 3)
    assert len(list((studied.report / "results" / "runs").glob("*.json"))) == 3 + 7 + 3


def test_verdicts_are_those_of_the_finished_study(studied: Studied) -> None:
    """No notebook shows a claim whose numbers a later notebook still changes."""
    finished = to_markdown(claims(Records(studied.report / "results"))).splitlines()[2:]
    shown = [
        line
        for name in NAMES
        for output in studied.outputs(name)
        for line in "".join(output.get("data", {}).get("text/markdown", "")).splitlines()
        if re.match(r"\| C\d", line)
    ]
    assert sorted(shown) == sorted(finished)


def test_what_was_shown(studied: Studied) -> None:
    record = studied.record("07_qualitative")
    assert set(record["worst"]) <= set(record["sequences shown"])
    assert max(record["worst"].values()) <= max(record["sequences shown"].values())
    assert record["compared"] == ["E3SN", "E3SN only S"]
    names = {path.stem for path in (studied.report / "figures").iterdir()}
    made_here = reference("figures").keys() - {
        "precision",
        "reliability",
        "seen_pairs",
    }  # e3sn bench makes those
    assert names == REAL | {f"{name}_synthetic" for name in made_here - REAL}


def test_what_was_followed_in_a_video(studied: Studied) -> None:
    record = studied.record("08_your_video")
    assert (record["frames"], record["objects"]) == (48, 1)
    assert 0 <= record["lowest score"][0] <= 1


def test_every_figure_is_in_its_notebook(studied: Studied) -> None:
    shown = {
        base64.b64decode(output["data"]["image/png"])
        for name in NAMES
        for output in studied.outputs(name)
        if "image/png" in output.get("data", {})
    }
    kept = {path.read_bytes() for path in (studied.report / "figures").glob("*.png")}
    assert len(kept) > 20
    assert kept <= shown


def test_nothing_was_printed_as_an_error(studied: Studied) -> None:
    printed = {
        name: [output["text"] for output in studied.outputs(name) if output.get("name") == "stderr"]
        for name in NAMES
    }
    assert printed == {name: [] for name in NAMES}


def test_pages_hold_their_figures(studied: Studied) -> None:
    for name in NAMES:
        to_html(studied.report / "notebooks" / f"{name}.ipynb", studied.report / f"{name}.html")
        page = (studied.report / f"{name}.html").read_text()
        kinds = [kind for each in studied.outputs(name) for kind in each.get("data", {})]
        figures = sum(kind.startswith("image/") for kind in kinds)
        assert "No description has been provided" not in page
        assert figures > 0
        assert len(page) > 80_000
        assert len(re.findall(r'<img[^>]* src="data:image/', page)) == figures
