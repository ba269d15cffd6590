"""The table of tracking speeds: what it says of itself holds, and all contenders are in it."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from e3sn_lib.data.davis import davis_sequences
from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.model.weights import load_model, save_model
from e3sn_lib.tracking.export import export_model
from e3sn_study.bench import tracking_speed
from e3sn_study.bench.tracking_speed import (
    EXPORTED,
    PUBLIC,
    STAGES,
    STAND_IN,
    PublicSiamMask,
    bench_exports,
    bench_sessions,
    bench_tracking,
)
from e3sn_study.bench.variant_costs import operations
from e3sn_study.records.schema import SESSIONS

PUBLIC_CODE = """
from types import SimpleNamespace as Namespace
import torch

class Custom:
    def __init__(self, anchors):
        self.features, self.rpn_model = torch.nn.Conv2d(3, 1, 9), Namespace(loc=Namespace())
        self.rpn_model.loc.head = [torch.nn.Conv2d(1, 20, 1)]
    def eval(self):
        pass
    def track_mask(self, image):
        self.feature, self.corr_feature = image, self.zf
        return torch.zeros(1, 10, 25, 25), torch.zeros(1, 20, 25, 25), None
    def track_refine(self, cell):
        assert tuple(cell) == (12, 12)  # nothing scores better than the middle
        return self.features(self.feature[..., :135, :135]).flatten(1) + self.corr_feature.mean()
"""
"""What `PublicSiamMask` uses of SiamMask's code, by its names."""


@pytest.fixture(scope="module")
def exported(tiny_model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    digest = hashlib.sha256(tiny_model_file.read_bytes()).hexdigest()
    export_model(*load_model(tiny_model_file), folder, origin={"run": "tiny", "sha256": digest})
    return folder


@pytest.fixture(scope="module")
def sequences(data_root: Path) -> list[Video]:
    return davis_sequences(data_root / "synthetic", 2016, "val")[:1]


@pytest.fixture(scope="module")
def graphs(tiny_model_file: Path, exported: Path, sequences: list[Video]) -> pd.DataFrame:
    return bench_exports(tiny_model_file, exported, sequences, 1)


def test_graphs_score_like_the_network(graphs: pd.DataFrame) -> None:
    table = graphs.set_index("contender")
    assert tuple(table.index) == EXPORTED
    for name in ("J-Mean", "F-Mean", "J_bound", "F_bound"):  # all three compute in fp32 here
        same = table.loc[[*EXPORTED], name].tolist()
        assert same == pytest.approx(3 * [same[0]], abs=1e-3)
    assert (table["fps"] > 0).all()


def test_sessions_add_steps_to_those_of_the_paper(
    exported: Path, sequences: list[Video], graphs: pd.DataFrame
) -> None:
    table = bench_sessions(exported, sequences, 1)
    assert tuple(table["contender"]) == tuple(SESSIONS)
    assert table["steps"].is_monotonic_increasing
    assert table["steps"][0] == table["steps"][1] == 1 < table["steps"][2] <= 2
    paper = graphs.iloc[-1]
    for name in ("J-Mean", "F-Mean"):
        assert table[name][0] == pytest.approx(paper[name])


def test_every_contender_and_stage(
    tiny_model_file: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(tracking_speed._peaks, side=256, channels=64, rows=34)  # bf16 may be emulated
    monkeypatch.setattr(tracking_speed, "_peaks", small)
    experiment = tmp_path / "experiments" / "siammask_sharp"
    experiment.mkdir(parents=True)
    (experiment / "custom.py").write_text(PUBLIC_CODE)
    (experiment / "config_davis.json").write_text('{"anchors": {}}')
    table = bench_tracking(tiny_model_file, exported, tmp_path, 1, 0, ((160, 120),), (1, 2))
    names = [STAND_IN, *EXPORTED, "torch bf16", PUBLIC]
    assert table["contender"].tolist() == 2 * names
    assert table["objects"].tolist() == 6 * [1] + 6 * [2]
    total = sum(table[f"{stage}_ms"] for stage in STAGES)
    assert table["step_ms"].tolist() == pytest.approx(total.tolist())
    assert (table["step_ms"] * table["frames_per_second"]).tolist() == pytest.approx(12 * [1000])
    assert table["ratio"][[0, 6]].tolist() == [1, 1]
    assert table["share"].between(0, 1.5).all()


def test_operations_are_multiplications_and_additions() -> None:
    class OneConvolution:
        def encode_template(self, crops: NDArray[np.uint8]) -> None:
            self.filters = torch.zeros(8, 3, 5, 5)

        def search(self, crops: NDArray[np.uint8], template: None) -> tuple[torch.Tensor]:
            return (torch.conv2d(torch.zeros(1, 3, 255, 255), self.filters),)

        def segment(self, *_: object) -> None:
            torch.zeros(7, 11) @ torch.zeros(11, 13)

    expected = 2 * (3 * 5 * 5 * 8 * 251**2 + 7 * 11 * 13)
    assert operations(OneConvolution()) == expected


def test_graphs_of_another_model_are_refused(
    tiny_model_file: Path, exported: Path, tmp_path: Path
) -> None:
    """Else tables would show their scores and speed under the name of this model's run."""
    other = tmp_path / "other.safetensors"
    save_model(other, *load_model(tiny_model_file), run="other")
    with pytest.raises(InputError, match=f"no export of {re.escape(str(other))}"):
        bench_exports(other, exported, [])


def test_no_public_code(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no checkout of SiamMask's code"):
        PublicSiamMask(tmp_path)
