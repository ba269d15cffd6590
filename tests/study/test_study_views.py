"""What notebooks ask of a study: folders wherever they start, pairs, stages, finished runs, figures that say they are synthetic."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from safetensors.torch import load_file

from e3sn_lib.config import Profile, TrainSetConfig
from e3sn_lib.data.coco import CocoMask
from e3sn_lib.data.sources import TrainSets
from e3sn_lib.data.types import PngMask, Track, TrackFrame, TrackSet, Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_image, read_mask, write_json, write_mask, write_text
from e3sn_lib.model.weights import load_model, save_model
from e3sn_lib.profiles.identity import content_hash
from e3sn_lib.profiles.loading import PROFILE_DIR
from e3sn_study import runs as study_module
from e3sn_study.checkout import ROOT
from e3sn_study.display import show_figure
from e3sn_study.evaluation import benchmark
from e3sn_study.records import STATISTICS
from e3sn_study.records.entries import files_of
from e3sn_study.records.store import digest
from e3sn_study.report.shipping import ship
from e3sn_study.runs import Run, Study, measurements
from e3sn_study.runs.measurements import (
    ablate,
    baselines,
    choose,
    evaluate,
    keep_attributes,
    masks,
    sampling_cost,
)


def write_image(path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture
def study(quick: None, data_root: Path, tmp_path: Path, tiny_settings: tuple[str, ...]) -> Study:
    folders = (str(data_root), tmp_path / "runs", tmp_path / "report")
    return Study.open("smoke", *folders, overrides=(*tiny_settings, "train.pairs=4"))


def with_settings(study: Study, *settings: str) -> Study:
    return replace(study, overrides=(*study.overrides, *settings))


@pytest.mark.parametrize(
    ("folder", "given", "expected"),
    [
        ("notebooks", {}, f"{ROOT}/data|{ROOT}/runs|{ROOT}/reports/smoke|smoke"),
        (
            "notebooks",
            {"data": "sets", "runs": "/r", "report": "out"},
            f"{ROOT}/sets|/r|{ROOT}/out|smoke",
        ),
        ("tests", {"report": "out"}, "data|runs|out|smoke"),
        ("tests", {"profile": "cpu"}, "|runs|reports/cpu|cpu"),
    ],
)
def test_relative_folders_are_the_repositorys_for_a_notebook(
    folder: str, given: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT / folder)
    monkeypatch.delenv("E3SN_DATA", raising=False)
    study = Study.open(**given)
    assert "|".join(map(str, (study.data, study.runs, study.report, study.profile))) == expected


def test_files_in_settings_are_the_repositorys_for_a_notebook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sets = ["train.init_weights=models/e3sn.safetensors", "train.backup=/b"]
    monkeypatch.chdir(ROOT / "notebooks")
    train = Study.open("cpu", "sets", overrides=sets).load().train
    assert (train.init_weights, train.backup) == (f"{ROOT}/models/e3sn.safetensors", "/b")


def test_records_of_a_study_that_began_from_another_model_are_set_aside(study: Study) -> None:
    first = study.train("e3sn", ["train.pairs=2"])
    with_settings(study, f"train.init_weights={first.model}").train("e3sn")
    begun = study.records.runs
    assert begun["first_weights"].tolist() == ["", ""]
    assert study.set_aside_outdated() == begun.loc[begun["pairs_before"] > 0, "run"].tolist()


def test_settings_of_inference_are_no_change_of_a_run(study: Study) -> None:
    run = study.train("e3sn", ["train.pairs=2"])
    changes = ["train.pairs=2", "track.mask_threshold=0.4", "data.evaluation=[]"]
    assert study.train("e3sn", changes).name == run.name
    assert study.records.runs["settings"].tolist() == ["train.pairs=2"]


def test_records_of_other_settings_of_inference_are_set_aside(study: Study) -> None:
    run = study.train("e3sn", ["train.pairs=2"])
    assert study.set_aside_outdated() == []
    changed = with_settings(study, "track.mask_threshold=0.3")
    assert changed.set_aside_outdated() == [run.name]


def test_the_legs_of_the_named_main_run_stay_on_record(study: Study) -> None:
    first = study.train("e3sn", ["train.pairs=2"])
    leg = study.train("e3sn", [f"train.init_weights={first.model}", "train.pairs=3"])
    other = with_settings(study, "train.momentum=0.5")
    assert with_settings(other, f"study.main={leg.folder}").set_aside_outdated() == []
    assert sorted(other.set_aside_outdated()) == sorted([first.name, leg.name])


def test_the_environment_can_name_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E3SN_DATA", "/elsewhere")
    assert Study.open("cpu").data == "/elsewhere"
    assert Study.open("cpu", "given").data == "given"


@pytest.mark.parametrize("name", ["runs", "report"])
def test_a_file_where_a_folder_is_needed_is_found_before_any_training(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(InputError, match=r"a file is a file, so .* cannot be a folder"):
        Study.open("smoke", **{name: tmp_path / "a file" / "below"})  # type: ignore[arg-type]


def test_pairs_are_those_that_a_run_trains_on(study: Study) -> None:
    first, second = study.pairs(3), study.pairs(2, "e3sn-s")
    assert [pair.source for pair in first[:2]] == [pair.source for pair in second]
    assert (first[0].search == second[0].search).all()


def test_sets_are_opened_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = study_module.open_train_sets
    monkeypatch.setattr(
        study_module, "open_train_sets", lambda data: opened.append(data) or real(data)
    )
    study.pairs(1)
    study.pairs(1, "siammask")
    assert study.train_sets() is study.train_sets()
    assert len(opened) == 1


def test_stages_share_the_time_and_the_pairs(
    tmp_path: Path, tiny_profile: Callable[..., Profile]
) -> None:
    rows = [("base", 8, 10.0, 100.0), ("base", 16, 30.0, 120.0), ("sharp", 24, 35.0, 120.0)]
    log = pd.DataFrame(rows, columns=["stage", "pairs", "seconds", "peak_memory_mb"])
    log.assign(pairs_per_second=1.0, data_share=0.0).to_csv(tmp_path / "log.csv", index=False)
    stages = Run(tmp_path, tiny_profile(), ()).stages().set_index("stage")
    assert stages["pairs"].tolist() == [16, 8]
    assert stages["seconds"].tolist() == [30, 5]
    assert stages["pairs_per_second"].tolist() == pytest.approx([16 / 30, 8 / 5])


def test_compared_runs_and_ablations_have_the_settings_the_profile_gives_them(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, tuple[str, ...], int | None]] = []

    def train(
        _: Study, variant: str, overrides: tuple[str, ...] = (), seed: int | None = None
    ) -> str:
        asked.append((variant, tuple(overrides), seed))
        return "run"

    monkeypatch.setattr(Study, "train", train)
    monkeypatch.setattr(measurements, "evaluate", lambda *_, **__: None)
    settings = "study.comparison=[train.pairs=8]", "study.ablation=[train.pairs=4]"
    seeds = "study.seeds=2", "study.ablation_seeds=3"
    changed = replace(with_settings(study, *settings, *seeds), seed=5)
    assert changed.compared("siammask") == ["run", "run"]
    assert ablate(changed, "e3sn", ["model.fusion=fixed"]) == ["run"] * 3
    assert ablate(Study.open("paper"), "e3sn", ["model.fusion=fixed"]) == []
    assert changed.on_top() == []
    on_top = with_settings(changed, "study.on_top=true")
    assert on_top.on_top() == ["run", "run"]
    first, *_ = on_top.load("siammask", ["train.pairs=10"]).stages.values()
    assert first.share * 10 == pytest.approx(8, abs=1)  # as many as the other networks have
    assert asked == [
        ("siammask", ("train.pairs=8",), 5),
        ("siammask", ("train.pairs=8",), 6),
        *(("e3sn", ("train.pairs=4", "model.fusion=fixed"), seed) for seed in (5, 6, 7)),
        ("siammask", ("train.pairs=10",), 5),
        ("siammask", ("train.pairs=10",), 6),
    ]


def test_a_figure_of_synthetic_data_says_so_in_its_name(study: Study) -> None:
    figure = Figure()
    show_figure(figure, study.figure("empty"))
    drawn = {path.name for path in study.figure("empty").parent.iterdir()}
    assert drawn == {"empty_synthetic.png", "empty_synthetic.svg"}
    assert [text.get_text() for text in figure.texts] == ["synthetic data"]
    real = Study.open("cpu", "", study.runs, study.report)
    show_figure(Figure(), real.figure("empty"))
    assert (study.report / "figures" / "empty.png").is_file()


def test_an_absent_set_is_told_without_the_machines_folders(
    tiny_profile: Callable[..., Profile], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Study.open("cpu", str(tmp_path), tmp_path / "runs", tmp_path / "report")
    assert not real.has("davis2016")
    kept = (real.results / "davis2016" / "not_run.txt").read_text()
    assert str(tmp_path) not in kept + capsys.readouterr().out
    assert "davischallenge.org" in kept


def planted_scores(sequences: list[Video], value: float = 0.5) -> pd.DataFrame:
    table = pd.DataFrame({"sequence": [each.name for each in sequences], "method": "mask"})
    table = table.assign(object=1, frames=3, mask_threshold=0.5)
    return table.assign(**dict.fromkeys(STATISTICS, value))


def planted_timing(sequences: list[Video]) -> pd.DataFrame:
    table = pd.DataFrame({"sequence": [each.name for each in sequences], "frames": 5})
    return table.assign(objects=1, seconds_reading=1, seconds_tracking=2)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Puts planted scores in place of tracking; a list of the evaluations that were made, by `extras`."""
    calls = []

    def evaluate_tracker(
        _: object, sequences: list[Video], out: Path, *, extras: bool
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        calls.append(extras)
        return planted_scores(sequences), planted_timing(sequences)

    monkeypatch.setattr(measurements, "evaluate_tracker", evaluate_tracker)
    monkeypatch.setattr(Run, "tracker", lambda *_: None)
    return calls


def test_an_evaluation_with_extras_serves_without_them_too(
    study: Study, evaluated: list[bool]
) -> None:
    run = Run(study.runs / "run", study.load(), ())
    for extras in (False, True, False, True):
        evaluate(study, run, "davis2016", extras=extras)
    assert evaluated == [False, True]


def test_an_evaluation_belongs_to_its_frames_masks_and_network(
    study: Study, data_root: Path, tmp_path: Path, evaluated: list[bool]
) -> None:
    own = Path(shutil.copytree(data_root, tmp_path / "own"))
    changing = replace(study, data=str(own))
    run = Run(study.runs / "run", study.load(), ())
    write_text(run.model, "a network")
    name = study.sequences("davis2016")[0].name
    frame = own / "synthetic/JPEGImages/480p" / name / "00002.jpg"
    mask = own / "synthetic/Annotations/480p" / name / "00000.png"
    evaluate(study, run, "davis2016")
    evaluate(changing, run, "davis2016")  # a copy of the same data
    assert evaluated == [True]
    write_image(frame, 255 - read_image(frame))
    evaluate(changing, run, "davis2016")
    write_mask(mask, np.flipud(read_mask(mask)))
    evaluate(changing, run, "davis2016")
    write_text(run.model, "another one")
    evaluate(changing, run, "davis2016")
    assert evaluated == [True] * 4
    evaluate(study, run, "davis2017")
    evaluate(study, run, "davis2017")
    assert evaluated == [True] * 5


def test_a_damaged_evaluation_is_made_anew(
    study: Study, evaluated: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(study.runs / "run", study.load(), ())
    first = evaluate(study, run, "davis2016")
    (kept,) = run.folder.rglob("scores.csv")
    content = kept.read_text()
    for damaged in (
        content[:-40],
        content[: content.index("\n", 200) + 1],
        "",
        content.replace("0.500000", "nan", 1),
    ):
        kept.write_text(damaged)
        pd.testing.assert_frame_equal(evaluate(study, run, "davis2016"), first)
        assert f"made anew: {kept} " in capsys.readouterr().out
        assert (
            kept.read_text()
            == (study.results / "davis2016" / f"{run.name}.csv").read_text()
            == content
        )
    assert evaluated == [True] * 5


def test_a_damaged_evaluation_with_extras_is_made_anew_with_them(
    study: Study, evaluated: list[bool]
) -> None:
    run = Run(study.runs / "run", study.load(), ())
    evaluate(study, run, "davis2016")
    (kept,) = run.folder.rglob("scores.csv")
    kept.write_text("")
    evaluate(study, run, "davis2016", extras=False)
    assert evaluated == [True, True]


def test_cost_is_measured_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    counts_run = []

    def measure(profile: Profile, counts: list[int]) -> pd.DataFrame:
        counts_run.append(counts)
        table = pd.DataFrame({"samples_per_image": counts, "samples": 1, "peak_memory_mb": 1.0})
        return table.assign(seconds_per_step=1.0, estimated_memory_mb=float("nan"))

    monkeypatch.setattr(measurements, "measure_sampling_cost", measure)
    for counts in ([1, 4], (1, 4), [1]):
        assert sampling_cost(study, counts)["samples_per_image"].tolist() == list(counts)
    assert counts_run == [[1, 4], [1]]
    assert pd.read_csv(study.results / "sampling_cost.csv")["samples_per_image"].tolist() == [1]


def test_baselines_are_scored_once_for_their_settings(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def score_method(method: str, masks: object, sequence: Video) -> pd.DataFrame:
        calls.append(method)
        return planted_scores([sequence]).assign(method=method)

    def masks(sequence: Video, trackers: dict[str, object]) -> dict[str, None]:
        names = ["first box held still", *trackers]
        return {f"{name} of {sequence.name}": None for name in names}

    monkeypatch.setattr(benchmark, "score_method", score_method)
    monkeypatch.setattr(benchmark.baselines, "baseline_masks", masks)
    monkeypatch.setattr(benchmark.os, "cpu_count", lambda: 1)
    for trackers in ({"CSRT": None, "MIL": None}, {"CSRT": None}, {}):
        monkeypatch.setattr(
            measurements,
            "opencv_trackers",
            lambda _, found=trackers: (dict(found), {"CSRT": "needs more"}),
        )
        assert set(baselines(study, "davis2016")["J-Mean"]) == {0.5}
    names = [sequence.name for sequence in study.sequences("davis2016")]
    with_csrt = [
        f"{method} of {name}" for name in names for method in ("first box held still", "CSRT")
    ]
    assert calls == [*with_csrt, *(f"first box held still of {name}" for name in names)]
    lacking = pd.read_csv(study.results / "davis2016" / "baselines_not_run.csv")
    assert lacking[["method", "reason"]].to_numpy().tolist() == [
        ["CSRT box filled", "needs more"],
        ["CSRT box + GrabCut", "needs more"],
    ]
    assert "not run: CSRT box filled: needs more" in capsys.readouterr().out


def test_a_tracker_has_the_settings_of_the_run_as_it_was_asked_for(
    study: Study, tiny_model_file: Path, tmp_path: Path
) -> None:
    """Settings of inference are no part of a run's name, so they can change after its model was written."""
    shutil.copyfile(tiny_model_file, tmp_path / "model.safetensors")
    run = Run(tmp_path, study.load(overrides=["track.mask_threshold=0.3"]), ())
    assert run.tracker().config.mask_threshold == 0.3


def test_masks_are_those_of_the_settings_they_were_asked_for(study: Study, tmp_path: Path) -> None:
    runs = [
        Run(tmp_path, study.load(overrides=[f"track.mask_threshold={value}"]), ())
        for value in (0.3, 0.5)
    ]
    with pytest.raises(InputError, match="has no masks of davis2016 with these settings yet"):
        masks(study, runs[0], "davis2016")
    for run in runs:
        _, plain = measurements._evaluations(run, "davis2016", study.sequences("davis2016"))
        (plain / "mask").mkdir(parents=True)
        (plain / "scores.csv").touch()
    found = [masks(study, run, "davis2016") for run in runs]
    assert found[0] != found[1]
    (found[1].parent / "scores.csv").unlink()  # an evaluation that was interrupted
    with pytest.raises(InputError):
        masks(study, runs[1], "davis2016")


def test_nothing_is_held_out_of_the_procedural_set(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.held_out() == []
    assert capsys.readouterr().out.startswith(
        "not run: this profile holds out no training sequences"
    )


def test_choices_are_made_on_what_is_held_out(
    study: Study, tiny_model_file: Path, tmp_path: Path
) -> None:
    name = (
        (Path(study.data) / "synthetic" / "ImageSets" / "2016" / "train.txt").read_text().split()[0]
    )
    text = f"data.train=[{{kind: synthetic, path: synthetic, split: train, hold_out: [{name}]}}]"
    choosing = with_settings(study, text)
    assert [sequence.name for sequence in choosing.held_out()] == [name]
    shutil.copyfile(tiny_model_file, tmp_path / "model.safetensors")
    run = Run(tmp_path, choosing.load(), ())
    scores = choose(choosing, run, {"size_lr": (0.5,)})
    kept = pd.read_csv(choosing.results / "choices" / f"{run.name}.csv")
    assert set(kept["sequence"]) == {name}
    assert len(kept) == len(scores) == 2 * 9  # two passes, nine thresholds, one object
    run.model.unlink()  # nothing can be tracked, and nothing needs to be
    recorded = with_settings(choosing, "study.recorded=true")
    again = choose(recorded, run, {"size_lr": (0.5, 0.7)})
    pd.testing.assert_frame_equal(again[scores.columns], scores, atol=1e-6)


def test_attributes_come_from_the_data_sets_own_list(
    study: Study, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_attributes(study)
    assert "not run: the attributes need db_info.yml" in capsys.readouterr().out
    assert not study.results.exists()
    own = shutil.copytree(data_root, tmp_path / "own")
    names = (own / "synthetic" / "ImageSets" / "2016" / "val.txt").read_text().split()
    entries = [{"name": names[0], "attributes": ["FM"], "set": "test"}]
    (own / "synthetic" / "db_info.yml").write_text(
        yaml.safe_dump({"attributes": ["FM", "OCC"], "sequences": entries})
    )
    keep_attributes(replace(study, data=str(own)))
    table = pd.read_csv(study.results / "davis2016" / "attributes.csv", dtype=str).fillna("")
    assert table[["sequence", "attributes"]].to_numpy().tolist() == [[names[0], "FM"]]
    assert capsys.readouterr().out == f"without attributes in db_info.yml: {names[1]}\n"


def test_records_of_other_settings_are_set_aside_and_not_lost(study: Study) -> None:
    other = with_settings(study, "train.momentum=0.5")
    runs = [study.run("e3sn"), study.run("e3sn", ["loss.loc=l1"]), other.run("e3sn")]
    for run in runs:
        content = {"run": run.name, "variant": "e3sn", "seed": 0, "overrides": list(run.overrides)}
        content |= {"pairs": 16, "seconds": 1.0, "peak_memory_mb": 1.0}
        write_json(study.results / "runs" / f"{run.name}.json", content)
        for name in (f"{run.name}.csv", f"{run.name}_speed.csv"):
            write_text(study.results / "davis2016" / name, run.name)
    (study.results / "davis2016" / "baselines.csv").write_text("kept")
    assert study.set_aside_outdated() == [runs[2].name]
    assert study.set_aside_outdated() == []
    left = {path.name for path in (study.results / "davis2016").iterdir()}
    assert left == {
        "baselines.csv",
        *(f"{run.name}{end}.csv" for run in runs[:2] for end in ("", "_speed")),
    }
    assert (
        study.results / "earlier" / "davis2016" / f"{runs[2].name}_speed.csv"
    ).read_text() == runs[2].name
    assert (study.results / "earlier" / "runs" / f"{runs[2].name}.json").is_file()


def test_legs_stay_on_record_and_are_told_apart_by_the_model_they_began_with(
    study: Study,
) -> None:
    firsts = [study.train("e3sn", ["train.pairs=2"], seed) for seed in (0, 1)]
    legs = [
        study.train("e3sn", [f"train.init_weights={first.model}", "train.pairs=3"])
        for first in firsts
    ]
    records = study.records
    began = records.runs.set_index("run")["first_weights"]
    assert began[[leg.name for leg in legs]].tolist() == [content_hash(x.model) for x in firsts]
    assert records.rows(leg.name for leg in legs)["pairs"].tolist() == [6, 6]
    assert [leg["run"] for leg in records.legs(legs[0].name)] == [firsts[0].name, legs[0].name]
    assert study.set_aside_outdated() == []


@pytest.fixture
def own(study: Study, data_root: Path, tmp_path: Path) -> Study:
    """A study of a copy of the data, to be changed."""
    root = shutil.copytree(data_root, tmp_path / "own")
    return with_settings(replace(study, data=str(root)), "train.pairs=2")


def invert_a_frame(study: Study, split: str) -> None:
    root = Path(study.data) / "synthetic"
    name = (root / "ImageSets" / "2016" / f"{split}.txt").read_text().split()[0]
    path = root / "JPEGImages" / "480p" / name / "00001.jpg"
    write_image(path, 255 - read_image(path))


def test_other_images_of_the_same_names_and_numbers_are_another_run(
    own: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = own.train()
    assert own.train().folder == first.folder
    moved = shutil.copytree(own.data, tmp_path / "moved")
    again = replace(own, data=str(moved))
    assert again.run("e3sn").folder == first.folder
    invert_a_frame(again, "train")
    changed = replace(own, data=str(moved))
    capsys.readouterr()
    second = changed.train()
    assert second.folder != first.folder
    assert (
        f"{first.name} was trained on other files; this is another run, {second.name}"
        in capsys.readouterr().out
    )
    assert own.run("e3sn").folder == first.folder
    (first.folder / "data.json").unlink()  # a run from before files were on record
    assert changed.run("e3sn").folder == first.folder
    assert changed.set_aside_outdated() == [second.name]


def test_what_is_no_file_or_has_an_odd_name_has_a_digest(tmp_path: Path) -> None:
    """A pipe is not opened, because reading it may never end."""
    pipe, odd = tmp_path / "pipe.jpg", tmp_path / "shot at 0x10.jpg"
    os.mkfifo(pipe)
    odd.write_bytes(b"an image")
    assert digest(pipe, odd, "at 0x10") == digest(pipe, odd, "at 0x10")
    assert digest(pipe, odd) != digest(tmp_path / "other.jpg", odd)


@pytest.mark.parametrize("kind", ["ids", "binary"])
def test_files_have_the_digest_that_earlier_versions_put_on_record(
    tiny_profile: Callable[..., Profile], tmp_path: Path, kind: str
) -> None:
    """If it changes, finished runs are taken for runs on other files."""
    image, mask = tmp_path / "1.jpg", tmp_path / "1.png"
    image.write_bytes(b"an image")
    mask.write_bytes(b"its mask")
    frame = TrackFrame(image, PngMask(mask, 2, kind), (1.0, 2.0, 3.5, 4.0), min_area=9.0)
    run = TrackFrame(image, CocoMask(4, 3, b"0125"))
    tracks = TrackSet("a set", (Track("one", (frame,)), Track("two", (run,))))
    sets = TrainSets([(tracks, TrainSetConfig("mask_folder", ("a set",)))])
    assert files_of(tiny_profile(), sets) == {"a set": "b0a4388a3ed30afe"}


def test_a_run_that_was_killed_at_its_very_end_is_finished(
    own: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    run = own.train()
    model, summary, log = load_file(run.model), run.summary(), run.log()
    for lost in ("model.safetensors", "log.csv", "env.json"):
        (run.folder / lost).unlink()
        assert not run.is_finished()
        assert own.train().is_finished()
        assert all(value.equal(model[key]) for key, value in load_file(run.model).items())
        assert run.summary() | {"peak_memory_mb": 0} == summary | {"peak_memory_mb": 0}
        pd.testing.assert_frame_equal(run.log(), log)
    run.model.write_bytes(run.model.read_bytes()[:2000])
    assert own.train().is_finished()
    assert all(value.equal(model[key]) for key, value in load_file(run.model).items())
    without_pairs = json.dumps(summary | {"pairs": None})
    for name, damaged in (
        ("summary.json", without_pairs),
        ("log.csv", "stage\n"),
        ("env.json", "{"),
    ):
        (run.folder / name).write_text(damaged)
        assert own.train().is_finished()
        assert "made anew: " in capsys.readouterr().out
    (run.folder / "checkpoint.pt").unlink()
    (run.folder / "summary.json").write_text("{")
    with pytest.raises(
        InputError,
        match=r"summary\.json is no summary of a training .*; delete the folder to train it again",
    ):
        own.train()
    assert all(value.equal(model[key]) for key, value in load_file(run.model).items())


def test_a_finished_run_can_stand_for_the_main_run(study: Study, tmp_path: Path) -> None:
    trained = study.train("e3sn", ["train.pairs=2"])
    elsewhere = replace(study, runs=tmp_path / "other", report=tmp_path / "report2")
    other = with_settings(elsewhere, f"study.main={trained.folder}")
    assert other.main().folder == trained.folder
    assert other.records.main_runs("e3sn") == [trained.name]
    assert not (tmp_path / "other").exists()
    assert other.set_aside_outdated() == []
    changed = with_settings(other, "track.mask_threshold=0.3")
    thresholds = [each.main().profile.track.mask_threshold for each in (other, changed)]
    assert thresholds == [0.5, 0.3]
    absent = with_settings(elsewhere, f"study.main={tmp_path / 'no'}")
    with pytest.raises(InputError, match="there is no file"):
        absent.main()
    assert study.main().folder == study.run("e3sn").folder


def test_runs_on_record_need_not_be_trained_again(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, other = study.train("e3sn"), study.train("e3sn-s", ["train.pairs=2"], seed=1)
    scores = evaluate(study, main, "davis2016"), evaluate(study, other, "davis2016", extras=False)
    shipped, _ = ship(main.folder, study.results, tmp_path / "models")
    shutil.rmtree(study.runs)
    monkeypatch.setattr(study_module, "SHIPPED", shipped)
    monkeypatch.setattr(study_module.Trainer, "run", None)
    again = with_settings(study, "study.recorded=true")
    assert again.set_aside_outdated() == []
    first, second = again.main(), again.train("e3sn-s", ["train.pairs = 2"], seed=1)
    assert [each.name for each in (first, second)] == [main.name, other.name]
    assert first.log()["pairs"].iloc[-1] == first.summary()["pairs"]
    assert second.stages()["pairs"].tolist() == [2]
    assert [first.model.is_file(), second.model.is_file()] == [True, False]
    columns = ["sequence", *STATISTICS]
    for run, wanted in zip((first, second), scores, strict=True):
        found = evaluate(again, run, "davis2016", extras=run is first)
        pd.testing.assert_frame_equal(found[columns], wanted[columns], atol=1e-6)
    assert evaluate(again, second, "davis2017").empty  # not on record
    # a longer run of another profile is no reason to train this one again
    record = json.loads((study.results / "runs" / f"{main.name}.json").read_text())
    record |= {"run": "long-e3sn-seed0-0", "profile": "long", "pairs": 900}
    record["config"]["loss"]["mask_weight"] = 1.0
    write_json(study.results / "runs" / "long-e3sn-seed0-0.json", record)
    assert again.train("e3sn").name == main.name
    # the name of a run in a model from elsewhere leads to no folder outside
    hostile = tmp_path / "hostile.safetensors"
    save_model(hostile, *load_model(shipped), run=f"../../{main.name}")
    assert with_settings(again, f"study.main={hostile}").main().folder == main.folder
    with pytest.raises(TypeError):  # this one is on no record: it would be trained
        again.train("e3sn-s")


@pytest.mark.parametrize("change", ["loss.mask_weight=1", "track.mask_threshold=0.3"])
def test_runs_on_record_are_not_taken_for_those_of_other_settings(
    study: Study, change: str
) -> None:
    study.train("e3sn-s", ["train.pairs=2"])
    again = with_settings(study, "study.recorded=true", change)
    with pytest.raises(InputError, match="is of other settings; leave out the overrides"):
        again.train("e3sn-s", ["train.pairs=2"])


def test_tables_are_of_the_run_that_was_asked_for_last(
    own: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    first = own.train()
    second = with_settings(own, "loss.mask_weight=1").train()
    assert own.records.runs["run"].tolist() == [second.name]
    assert (
        f"{first.name} is another run; its records are now in results/earlier"
        in capsys.readouterr().out
    )
    assert own.train().name == first.name  # it is not trained again, and so is older
    assert own.records.runs["run"].tolist() == [first.name]
    assert (own.results / "earlier" / "runs" / f"{second.name}.json").is_file()


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"profile": 3}, "profile is 3; give text"),
        ({"runs": None}, "runs is None; give text"),
        ({"data": 2026}, "data is 2026; give text"),
        ({"report": 4.5}, "report is 4.5; give text"),
        ({"overrides": [{"train.pairs": 8}]}, r"overrides has {'train.pairs': 8}; give text"),
        ({"overrides": "8"}, "'8' is no list"),
    ],
)
def test_parameters_of_the_wrong_type_are_told(given: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        Study.open(**given)


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("study.comparison=[train.pears=1]", "unknown setting 'train.pears'"),
        ("study.ablation=[train.pairs=x]", "train.pairs"),
        ("study.seeds=3", "seed"),
    ],
)
def test_settings_of_later_runs_are_checked_before_the_first(setting: str, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        Study.open(overrides=[setting], seed=2**32 - 2)


def test_a_profile_of_the_name_of_a_shipped_one_is_refused(tmp_path: Path) -> None:
    path = shutil.copy(PROFILE_DIR / "smoke.yaml", tmp_path / "smoke.yaml")
    with pytest.raises(InputError, match="give it another name"):
        Study.open(str(path))


def test_a_folder_that_may_not_be_changed_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may do anything
    with pytest.raises(InputError, match="may not be changed; give another folder"):
        Study.open(report=tmp_path / "report")


def test_scores_on_other_files_of_a_benchmark_are_set_aside(
    own: Study, evaluated: list[bool]
) -> None:
    run = Run(own.runs / "run", own.load(), ())
    evaluate(own, run, "davis2016")
    evaluate(own, run, "davis2017")
    assert own.set_aside_outdated() == []
    (own.results / "davis2016" / "baselines.csv").write_text("of an older study\n")
    assert {path.name for path in (own.results / "davis2016").iterdir()} == {
        "baselines.csv",
        "run.csv",
        "run_speed.csv",
    }
    invert_a_frame(own, "val")
    (own.results / "davis2016" / "a_damaged_one.csv").touch()  # does not hide those after it
    own.set_aside_outdated()
    (own.results / "davis2016" / "a_damaged_one.csv").unlink()
    assert {path.name for path in (own.results / "davis2016").iterdir()} == {"baselines.csv"}
    assert len(list((own.results / "earlier").rglob("*.csv"))) == 4


def test_of_several_seeds_those_on_record_are_enough(
    own: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs on record are shown without training, also if a seed is missing among them."""
    several = with_settings(own, "study.seeds=2", "study.comparison=[train.pairs=2]")
    first = several.train("e3sn-s", ["train.pairs=2"])
    capsys.readouterr()
    recorded = with_settings(several, "study.recorded=true")
    assert [run.name for run in recorded.compared("e3sn-s")] == [first.name]
    assert capsys.readouterr().out == "e3sn-s: 1 of 2 seeds are on record\n"
    assert len(list(own.runs.iterdir())) == 1
