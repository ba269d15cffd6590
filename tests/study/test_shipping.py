"""The model that ships: half the size, the same masks; and a card that holds nothing but what is on record."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_results import VAL, add_run, add_scores
from safetensors import safe_open

from e3sn_lib.config import Profile, TrackConfig
from e3sn_lib.data.davis import davis_sequences
from e3sn_lib.errors import InputError
from e3sn_lib.model.network import E3SN
from e3sn_lib.model.weights import load_model, load_profile_of, read_metadata, save_model
from e3sn_lib.profiles.loading import load_profile
from e3sn_lib.tracking.tracker import Tracker
from e3sn_study import cli
from e3sn_study.checkout import REPORTS, SHIPPED
from e3sn_study.records import Records
from e3sn_study.report.shipping import model_card, ship
from e3sn_study.tables.deviations import training_sets


@pytest.fixture
def finished(
    tiny_model: E3SN, tiny_profile: Callable[..., Profile], tmp_path: Path
) -> tuple[Path, Path]:
    """A run's folder, and results it is on record in."""
    results = tmp_path / "report" / "results"
    track = asdict(replace(TrackConfig(), mask_threshold=0.35))
    more = {"precision": "bf16", "track": track, "absent": ["training set youtube_vos is absent"]}
    run = add_run(results, pairs=24_000, **more)
    add_scores(results, run, 0.6, 0.5)
    add_scores(results, "", 0.2, 0.1, method="first mask held still")
    profile = tiny_profile(f"train.backup={tmp_path}", f"train.init_weights={tmp_path / 'a'}")
    save_model(tmp_path / run / "model.safetensors", tiny_model, profile)
    return tmp_path / run, results


def test_half_precision_gives_the_same_masks(
    tiny_model: E3SN, data_root: Path, finished: tuple[Path, Path], tmp_path: Path
) -> None:
    path, _ = ship(*finished, tmp_path / "models")
    assert path.stat().st_size < 0.53 * (finished[0] / "model.safetensors").stat().st_size
    shipped, _ = load_model(path)
    kinds = {value.dtype for value in shipped.state_dict().values()}
    assert kinds <= {torch.float32, torch.int64}
    sequence = davis_sequences(data_root / "synthetic", 2016, "val")[0]
    frames, box = [sequence.frame(index) for index in range(len(sequence))], [[60, 40, 50, 50]]
    full = np.stack([result.soft_masks for result in Tracker(tiny_model).run(frames, box)])
    half = np.stack([result.soft_masks for result in Tracker(shipped).run(frames, box)])
    assert np.abs(full - half).max() < 0.02
    threshold = np.median(
        full[full > 0]
    )  # random weights decide nothing: most pixels lie close to this, half of them above
    assert (full > threshold).mean() > 0.02
    assert ((full > threshold) != (half > threshold)).sum() < 0.03 * (full > 0).sum()


def test_the_file_has_the_settings_of_the_evaluation_and_no_folder_of_the_machine(
    finished: tuple[Path, Path], tmp_path: Path, data_root: Path
) -> None:
    path, _ = ship(*finished, tmp_path / "models")
    _, profile = load_model(path)
    assert profile.track.mask_threshold == 0.35
    assert profile.data.root == profile.train.init_weights == profile.train.backup == ""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    noted = [metadata[name] for name in ("run", "commit", "pairs")]
    assert noted == [finished[0].name, "0123456789abcdef", "24000"]
    for folder in (data_root, tmp_path):
        assert str(folder) not in json.dumps(metadata)


def ship_command(finished: tuple[Path, Path], out: Path) -> list[str]:
    run, results = finished
    return f"ship --run {run} --report {results.parent} --out {out}".split()


def test_shipping_again_gives_the_same_bytes(finished: tuple[Path, Path], tmp_path: Path) -> None:
    path, card = ship(*finished, tmp_path / "models")
    before = [path.read_bytes(), card.read_bytes()]
    command = [sys.executable, "-m", "e3sn_study", *ship_command(finished, tmp_path / "again")]
    other_order = os.environ | {"PYTHONHASHSEED": "1"}
    subprocess.run(command, check=True, env=other_order)
    again = [(tmp_path / "again" / each.name).read_bytes() for each in (path, card)]
    assert again == before


def test_a_card_that_cannot_be_made_leaves_the_earlier_model(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> str:
        raise InputError("a table is damaged")

    path, card = ship(*finished, tmp_path / "models")
    path.write_bytes(b"the earlier model")
    monkeypatch.setattr("e3sn_study.report.shipping.model_card", fails)
    with pytest.raises(InputError, match="a table is damaged"):
        ship(*finished, tmp_path / "models")
    assert path.read_bytes() == b"the earlier model"
    assert sorted((tmp_path / "models").iterdir()) == sorted([path, card])


def test_weights_beyond_half_precision_do_not_ship(
    tiny_model: E3SN,
    tiny_profile: Callable[..., Profile],
    finished: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    model = deepcopy(tiny_model)
    weight = next(weight for weight in model.parameters() if weight.dim() > 1)
    with torch.no_grad():
        weight[(0,) * weight.dim()] = 1e5
    save_model(finished[0] / "model.safetensors", model, tiny_profile())
    with pytest.raises(InputError, match=r"are not finite: backbone\.conv1\.weight"):
        ship(*finished, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_card_says_what_is_on_record(finished: tuple[Path, Path], tmp_path: Path) -> None:
    path, card = ship(*finished, tmp_path / "models")
    text = card.read_text()
    assert (path.name, card.name) == ("e3sn.safetensors", "e3sn.md")
    for words in (
        "24,000 pairs of images, 0.200 % of the 12 million",
        "e3sn train --profile made --variant e3sn --seed 0",
        "01234567",
        "a processor, 2 cores",
        "| DAVIS-2016 val | this model | 60.0 (60.0 to 60.0) |",
        "| DAVIS-2016 val | first mask held still | 20.0 (20.0 to 20.0) |",
        "| DAVIS-2017 val | this model | not run |",
        "DAVIS-2016: all 20 sequences.",
        "Left out, because absent: training set youtube_vos is absent.",
        "mask_threshold 0.35",
        "MIT licence",
        "## Limits",
    ):
        assert words in text, words
    assert str(tmp_path) not in text
    assert not re.search(r"\bnan\b|None|\n\n\n", text)


def test_shares_are_of_the_sets_that_were_there() -> None:
    profile = load_profile("cpu")
    first, *others = profile.data.train
    assert others
    assert first.weight > 0
    absent = [f"training set {first.kind} ({first.path[0]}) is absent"]
    shares = training_sets(profile, absent)["Share of pairs"].tolist()
    assert shares[0] == "absent"
    total = sum(each.weight for each in others)
    assert shares[1:] == [f"{100 * each.weight / total:.0f} %" for each in others]


def test_the_card_of_the_shipped_model_is_that_of_the_records() -> None:
    run, records = read_metadata(SHIPPED)["run"], Records(REPORTS / "cpu" / "results")
    made = model_card(records, run, load_profile_of(SHIPPED), SHIPPED)
    assert SHIPPED.with_suffix(".md").read_text() == made


def test_the_card_names_where_the_model_fails(finished: tuple[Path, Path], tmp_path: Path) -> None:
    run, results = finished
    (results / "davis2016" / f"{run.name}.csv").unlink()
    scores = dict.fromkeys(VAL, 0.6) | {"dog": 0.9, "libby": 0.2}
    add_scores(results, run.name, scores, 0.5)
    add_scores(results, run.name, 0.8, 0.55, method="mask in true boxes")
    (results / "davis2016" / "attributes.csv").write_text(
        "sequence,attributes\ndog,FM\nlibby,OCC\n"
    )
    text = ship(*finished, tmp_path / "models")[1].read_text()
    assert "The lowest J on DAVIS-2016: libby 20.0, " in text
    # Of the two sequences that have labels.
    assert "the largest losses: occlusion -70.0." in text
    # 80 - (18 * 60 + 90 + 20) / 20
    assert "With true boxes its mean scores change by J +20.5 and F +5.0" in text


def test_synthetic_training_is_said_first(
    tiny_model: E3SN, tiny_profile: Callable[..., Profile], tmp_path: Path
) -> None:
    run = add_run(tmp_path, data="synthetic-train")
    add_scores(tmp_path, run, 0.6, sequences=VAL[:2])
    save_model(tmp_path / run / "model.safetensors", tiny_model, tiny_profile())
    text = ship(tmp_path / run, tmp_path, tmp_path)[1].read_text()
    assert text.index("Trained on synthetic data") < text.index("## Data")
    assert "The backbone started from\nnothing." in text


def test_a_run_that_is_not_on_record(finished: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not on record in .*; evaluate it first"):
        ship(finished[0], tmp_path, tmp_path / "models")
    with pytest.raises(InputError, match=r"there is no file .*model\.safetensors"):
        ship(tmp_path / "absent", finished[1], tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_from_the_command_line(
    finished: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in ("models", "."):
        assert cli.main(ship_command(finished, Path(out))) == 0
        expected = r"^model: .*e3sn\.safetensors \(\d+\.\d MB\)\ncard: .*e3sn\.md\n$"
        assert re.search(expected, capsys.readouterr().out)
        assert (tmp_path / out / "e3sn.md").is_file()
