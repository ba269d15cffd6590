"""What notebooks ask of a study: folders wherever they start, pairs, stages, finished runs, figures that say they are synthetic."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY
from matplotlib.figure import Figure

from e3sn_lib import study as study_module
from e3sn_lib.config import Profile
from e3sn_lib.study import ROOT, Run, Study

SHOW = "from e3sn_lib.study import Study; s = Study.open({}); print(s.data, s.runs, s.report, s.profile, sep='|')"


@pytest.fixture
def study(data_root: Path, tmp_path: Path) -> Study:
    return Study.open("smoke", str(data_root), tmp_path / "runs", tmp_path / "report", overrides=TINY)


@pytest.mark.parametrize(
    ("folder", "arguments", "expected"),
    [
        (ROOT / "notebooks", "", f"{ROOT}/data|{ROOT}/runs|{ROOT}/reports/smoke|smoke"),
        (ROOT / "notebooks", "data='sets', runs='/r', report='out'", f"{ROOT}/sets|/r|{ROOT}/out|smoke"),
        (ROOT / "tests", "report='out'", "data|runs|out|smoke"),
        (ROOT / "tests", "'cpu'", "|runs|reports/cpu|cpu"),
    ],
)
def test_relative_folders_are_the_repositorys_for_a_notebook(folder: Path, arguments: str, expected: str) -> None:
    code = SHOW.format(arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env={}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_the_environment_can_name_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E3SN_DATA", "/elsewhere")
    assert Study.open("cpu").data == "/elsewhere"
    assert Study.open("cpu", "given").data == "given"


def test_pairs_are_those_that_a_run_trains_on(study: Study) -> None:
    first, second = study.pairs(3), study.pairs(2, "e3sn-s")
    assert [pair.source for pair in first[:2]] == [pair.source for pair in second]
    assert (first[0].search == second[0].search).all()


def test_sets_are_opened_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = study_module.open_train_sets
    monkeypatch.setattr(study_module, "open_train_sets", lambda data: opened.append(data) or real(data))
    study.pairs(1)
    study.finished("e3sn", "siammask")
    assert study.train_sets() is study.train_sets()
    assert len(opened) == 1


def test_stages_share_the_time_and_the_pairs(tmp_path: Path, tiny_profile: Callable[..., Profile]) -> None:
    rows = [("base", 8, 10.0, 100.0), ("base", 16, 30.0, 120.0), ("sharp", 24, 35.0, 120.0)]
    pd.DataFrame(rows, columns=["stage", "pairs", "seconds", "peak_memory_mb"]).to_csv(tmp_path / "log.csv", index=False)
    stages = Run(tmp_path, tiny_profile(), ()).stages().set_index("stage")
    assert stages["pairs"].tolist() == [16, 8]
    assert stages["seconds"].tolist() == [30, 5]
    assert stages["pairs_per_second"].tolist() == pytest.approx([16 / 30, 8 / 5])


def test_runs_that_are_not_there_are_named(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.finished("e3sn", "siammask") == {}
    assert capsys.readouterr().out.split("\n")[:2] == [
        f"not trained yet, so left out here: {name}" for name in ("e3sn", "siammask")
    ]


def test_a_figure_of_synthetic_data_says_so_in_its_name(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure()
    study.show(figure, "empty")
    assert [path.name for path in study.figures.iterdir()] == ["empty_synthetic.png"]
    assert [text.get_text() for text in figure.texts] == ["synthetic data"]
    real = Study.open("cpu", "", study.runs, study.report)
    real.show(Figure(), "empty")
    assert (study.figures / "empty.png").is_file()


def test_an_absent_set_is_told_without_the_machines_folders(
    tiny_profile: Callable[..., Profile], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Study.open("cpu", str(tmp_path), tmp_path / "runs", tmp_path / "report")
    assert not real.has("davis2016")
    kept = (real.results / "davis2016" / "not_run.txt").read_text()
    assert str(tmp_path) not in kept + capsys.readouterr().out
    assert "davischallenge.org" in kept


def test_an_evaluation_with_extras_serves_without_them_too(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def evaluate(tracker: object, sequences: object, out: Path, *, extras: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
        calls.append(extras)
        return pd.DataFrame({"J-Mean": [0.5]}), pd.DataFrame({"frames": [5]})

    monkeypatch.setattr(study_module, "evaluate_tracker", evaluate)
    monkeypatch.setattr(Study, "tracker", lambda *_: None)
    run = Run(study.runs / "run", study.load(), ())
    for extras in (False, True, False, True):
        study.evaluate(run, "davis2016", extras=extras)
    assert calls == [False, True]


def test_cost_is_measured_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    counts_run = []

    def measure(profile: Profile, counts: list[int]) -> pd.DataFrame:
        counts_run.append(counts)
        return pd.DataFrame({"samples_per_image": counts, "peak_memory_mb": 1.0})

    monkeypatch.setattr(study_module, "measure_sampling_cost", measure)
    for counts in ([1, 4], (1, 4), [1]):
        assert study.sampling_cost(counts)["samples_per_image"].tolist() == list(counts)
    assert counts_run == [[1, 4], [1]]
    assert pd.read_csv(study.results / "sampling_cost.csv")["samples_per_image"].tolist() == [1]
