"""A model's row on held-out data: of a finished model, of a run that goes on, and of a model that began with another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.model.network import E3SN
from e3sn_lib.model.weights import save_model
from e3sn_lib.profiles.identity import content_hash
from e3sn_lib.training.state import write_checkpoint
from e3sn_study.cli import main
from e3sn_study.evaluation.held_out import score_held_out
from e3sn_study.records.schema import SCHEMAS


@pytest.fixture
def profile(tiny_profile: Callable[..., Profile], data_root: Path, tmp_path: Path) -> Profile:
    """Two kinds of held-out data: a procedural clip, and images of two squares of one category."""
    root = tmp_path / "data"
    (root / "coco").mkdir(parents=True)
    (root / "synthetic").symlink_to(data_root / "synthetic")
    images, annotations = [], []
    for number in range(6):
        cv2.imwrite(str(root / "coco" / f"{number}.png"), np.full((300, 400, 3), 90, np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "height": 300, "width": 400})
        for left in (140, 220):
            corners = [left, 120, left + 60, 120, left + 60, 180, left, 180]
            annotations.append(
                {
                    **{"id": len(annotations), "image_id": number, "category_id": 1, "iscrowd": 0},
                    **{"area": 3600, "bbox": [left, 120, 60, 60], "segmentation": [corners]},
                }
            )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    (root / "coco" / "a.json").write_text(json.dumps(content))
    name = (root / "synthetic" / "ImageSets" / "2016" / "train.txt").read_text().split()[0]
    synthetic = f"{{kind: synthetic, path: synthetic, split: train, hold_out: [{name}]}}"
    coco = "{kind: coco, path: coco, images: '.', annotations: a.json, hold_out_share: 0.5}"
    made = tiny_profile(f"data.train=[{synthetic}, {coco}]")
    return replace(made, data=replace(made.data, root=str(root)))


def test_a_row_adds_up_the_pairs(tiny_model: E3SN, profile: Profile, tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    save_model(first, tiny_model, profile, run="mine")
    row = score_held_out(first, profile.data)
    assert (row["run"], row["model"], row["pairs"]) == ("mine", content_hash(first), 16)
    assert 0 < row["scenes"] <= 12
    assert 0 <= row["J-Mean"] <= 1

    # a model that says how many pairs it has seen, those of the models before it included
    second = tmp_path / "second.safetensors"
    save_model(second, tiny_model, profile, pairs="40")
    assert score_held_out(second, profile.data)["pairs"] == 40

    # a run that began with such a model and has done 3 steps of 2 pairs; its average counts
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(profile.to_dict()))
    weights = tiny_model.state_dict()
    average = {f"module.{key}": value for key, value in weights.items()} | {
        "n_averaged": torch.tensor(3)
    }
    rest = {"average": average, "model": {}, "state": {"step": 3, "pairs_before": 16}}
    rest["torch_rng"] = torch.get_rng_state()
    write_checkpoint(run, {"profile": profile.to_dict(), "precision": "float32", **rest})
    other = score_held_out(run, profile.data)
    assert (other["run"], other["pairs"]) == ("run", 16 + 6)
    scores = ["J-Mean", "F-Mean", "scenes", "raw_over", "penalised_over"]
    assert [other[name] for name in scores] == [row[name] for name in scores]

    with pytest.raises(InputError, match="there is no file"):
        score_held_out(tmp_path / "absent", profile.data)
    (run / "checkpoint.pt").unlink()
    with pytest.raises(InputError, match="neither"):
        score_held_out(run, profile.data)


def test_the_command_keeps_one_row_for_each_model(
    tiny_model: E3SN, profile: Profile, tmp_path: Path
) -> None:
    model, settings = tmp_path / "m.safetensors", tmp_path / "mine.yaml"
    save_model(model, tiny_model, profile)
    train = [
        {key: value for key, value in each.items() if value is not None}
        for each in profile.to_dict()["data"]["train"]
    ]
    settings.write_text(yaml.safe_dump({"data": {"train": train}}))
    arguments = ["bench", "held-out", "--profile", str(settings), "--data", profile.data.root]
    for _ in range(2):
        assert main([*arguments, "--model", str(model), "--report", str(tmp_path)]) == 0
    assert len(SCHEMAS["held_out"].read(tmp_path / "results" / "held_out.csv")) == 1
