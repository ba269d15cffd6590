"""The table of tracking speeds: what it says of itself holds, and all contenders are in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from e3sn_lib.model.weights import load_model
from e3sn_lib.tracking.export import export_model
from e3sn_study.bench.tracking_speed import STAGES, STAND_IN, bench_tracking


def test_every_contender_and_stage(tiny_model_file: Path, tmp_path: Path) -> None:
    export_model(*load_model(tiny_model_file), tmp_path)
    table = bench_tracking(tiny_model_file, tmp_path, 1, 1, ((160, 120),), (1, 2))
    names = [STAND_IN, "torch fp32", "torch bf16", "ONNX fp32", "ONNX int8"]
    assert table["contender"].tolist() == 2 * names
    assert table["objects"].tolist() == 5 * [1] + 5 * [2]
    total = sum(table[f"{stage}_ms"] for stage in STAGES)
    assert table["step_ms"].tolist() == pytest.approx(total.tolist())
    assert (table["step_ms"] * table["frames_per_second"]).tolist() == pytest.approx(10 * [1000])
    assert table["ratio"][[0, 5]].tolist() == [1, 1]
    assert (table["ratio"][1:5] > 2).all()  # a ResNet-18 of 16 channels against the whole network
    assert table["share"].between(0.001, 1.5).all()
