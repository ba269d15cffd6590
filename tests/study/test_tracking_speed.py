"""The table of tracking speeds: what it says of itself holds, and all contenders are in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from e3sn_lib.data.davis import davis_sequences
from e3sn_lib.model.weights import load_model
from e3sn_lib.tracking.export import export_model
from e3sn_study.bench.tracking_speed import (
    EXPORTED,
    STAGES,
    STAND_IN,
    bench_exports,
    bench_tracking,
)


def test_graphs_score_like_the_network(
    tiny_model_file: Path, data_root: Path, tmp_path: Path
) -> None:
    export_model(*load_model(tiny_model_file), tmp_path)
    sequences = davis_sequences(data_root / "synthetic", 2016, "val")[:1]
    table = bench_exports(tiny_model_file, tmp_path, sequences, 1).set_index("contender")
    assert tuple(table.index) == EXPORTED
    for name in ("J-Mean", "F-Mean"):  # all three compute in fp32 here
        assert table[name].tolist() == pytest.approx(3 * [table[name].iloc[0]], abs=1e-3)
    assert (table["fps"] > 0).all()


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
    fp32 = table["ratio"][[1, 3]]
    assert (fp32 > 2).all()  # a ResNet-18 of 16 channels against the whole network
    assert table["share"].between(0.001, 1.5).all()
