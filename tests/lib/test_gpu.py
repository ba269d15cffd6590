"""What only a GPU computes: it agrees with the CPU, and a training goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from e3sn_lib.config import Profile, TrainSetConfig
from e3sn_lib.data.davis import davis_sequences, davis_tracks
from e3sn_lib.data.types import TrackSet
from e3sn_lib.geometry import box_from_mask, box_xywh
from e3sn_lib.model import device
from e3sn_lib.model.network import E3SN, build_model
from e3sn_lib.tracking.tracker import FrameResult, Tracker
from e3sn_lib.training.loop import Trainer

DEVICE = "cuda"
SETTINGS = ("train.pairs=8", "train.checkpoint_every=1", "train.lr=[1.0e-3, 1.0e-3]")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Trained(NamedTuple):
    losses: list[float]
    weights: dict[str, torch.Tensor]


Train = Callable[..., Trained]


@pytest.fixture
def source(data_root: Path) -> tuple[TrackSet, TrainSetConfig]:
    config = TrainSetConfig("synthetic", ("synthetic",), frame_range=3, min_area=0)
    return davis_tracks(data_root / "synthetic", config), config


@pytest.fixture
def train(
    tiny_profile: Callable[..., Profile],
    source: tuple[TrackSet, TrainSetConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Train:
    """Train with a precision, if asked to with a stop after the second step."""

    def run(where: str, precision: str, folder: str, stop: bool = False) -> Trained:
        monkeypatch.setattr(device, "best_device", lambda: torch.device(where))
        profile = tiny_profile(*SETTINGS, "train.log_every=1", f"train.precision={precision}")
        made, step, taken = Trainer(profile, [source], tmp_path / folder), Trainer._step, []

        def stopping(*given: object) -> dict[str, float]:
            if len(taken) == 2:
                raise RuntimeError("stopped")
            taken.append(1)
            return step(*given)

        if stop:
            monkeypatch.setattr(Trainer, "_step", stopping)
            with pytest.raises(RuntimeError, match="stopped"):
                made.run()
            monkeypatch.setattr(Trainer, "_step", step)
            made = Trainer(profile, [source], tmp_path / folder)
        model = made.run()
        return Trained([row["loss"] for row in made.state.rows], load_file(model))

    return run


def test_masks_are_those_of_the_cpu(
    tiny_profile: Callable[..., Profile], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both convolve in single precision, the GPU perhaps with ten bits of the fraction (TF32)."""
    video = davis_sequences(data_root / "synthetic", 2016, "val")[0]
    frames = [video.frame(number) for number in range(len(video))]
    box = box_from_mask(video.mask(0) > 0)
    assert box

    def tracked(model: E3SN) -> list[FrameResult]:
        return list(Tracker(model, tiny_profile().track).run(frames, [box_xywh(box)]))

    torch.manual_seed(0)
    model = build_model(tiny_profile().model).eval()
    for one, other in zip(tracked(model), tracked(model.to(DEVICE)), strict=True):
        assert np.abs(one.boxes_frame_xyxy - other.boxes_frame_xyxy).max() < 1
        assert np.abs(one.soft_masks - other.soft_masks).max() < 0.05


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_training_learns_as_on_the_cpu(train: Train, precision: str) -> None:
    reference, losses = train("cpu", "fp32", "cpu").losses, train(DEVICE, precision, "gpu").losses
    assert losses[0] == pytest.approx(reference[0], rel=0.02)
    assert np.isfinite(losses).all()
    if precision != "fp16":  # its scale is too large at first, so it skips steps
        assert losses == pytest.approx(reference, rel=0.1)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_stopped_training_goes_on(train: Train, precision: str) -> None:
    """With fp16 the scale of the gradients goes on too."""
    whole, resumed = (train(DEVICE, precision, str(stop), stop) for stop in (False, True))
    assert resumed.losses == pytest.approx(whole.losses, rel=1e-3)
    for name, weight in whole.weights.items():
        torch.testing.assert_close(resumed.weights[name], weight, rtol=1e-2, atol=1e-3)
