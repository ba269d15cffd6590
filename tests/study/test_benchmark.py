"""The benchmark's plain network computes the same function; precisions are compared on the same pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from e3sn_lib.config import Profile
from e3sn_lib.data.sources import open_train_sets
from e3sn_lib.model.network import build_model
from e3sn_lib.tracking.tracker import Tracker
from e3sn_study.bench.steps import noise
from e3sn_study.bench.training_speed import (
    OURS,
    PLAIN,
    TWO_STAGE,
    PlainE3SN,
    bench_training,
    contenders,
    precision_difference,
)
from e3sn_study.bench.variant_costs import network_sizes, variant_costs

MakeProfile = Callable[..., Profile]


@pytest.mark.parametrize(
    ("variant", "mask", "size"),
    [
        ("e3sn", "refine", 255),
        ("e3sn", "refine", 143),
        ("siammask", "refine", 143),
        ("siammask", "base", 255),
    ],
)
def test_plain_is_the_same_function(
    tiny_profile: MakeProfile, variant: str, mask: str, size: int
) -> None:
    profile = tiny_profile(variant=variant)
    torch.manual_seed(0)
    ours, plain = build_model(profile.model).eval(), PlainE3SN(profile.model).eval()
    plain.load_state_dict(ours.state_dict())
    batch = noise(profile, replace(next(iter(profile.stages.values())), search_size=size), 2)
    with torch.no_grad():
        expected, found = (
            model(batch.template, batch.search, batch.cells, mask) for model in (ours, plain)
        )
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, atol=1e-4 * float(one.abs().max()))


def test_plain_keeps_rows_together(tiny_profile: MakeProfile) -> None:
    plain = PlainE3SN(tiny_profile().model)
    seen = []
    for each in plain.modules():
        if isinstance(each, torch.nn.Conv2d):
            each.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].stride(-1) == 1))
    batch = noise(tiny_profile(), next(iter(tiny_profile().stages.values())), 2)
    plain(batch.template, batch.search, batch.cells)
    assert len(seen) > 40
    assert all(seen)


def test_plain_is_fp32_with_whole_shortcuts(tiny_profile: MakeProfile) -> None:
    settings = ("train.train_layers=[layer2]", "train.weights=absent.safetensors")
    entries = contenders(tiny_profile("train.precision=bf16", *settings))
    for trained in (False, True):
        for each in entries.values():
            each.train_backbone(trained)
        whole = {
            name: not any(s.centre_only for s in each.model.backbone.shortcuts)
            for name, each in entries.items()
        }
        assert whole == {OURS: trained, PLAIN: True, TWO_STAGE: True}
    assert {name: each.dtype for name, each in entries.items()} == {
        OURS: torch.bfloat16,
        PLAIN: torch.float32,
        TWO_STAGE: torch.float32,
    }


def test_contenders_take_turns_and_are_all_told(tiny_profile: MakeProfile) -> None:
    profile = tiny_profile("train.train_layers=[layer2, layer3]")
    table = bench_training(profile, open_train_sets(profile.data).opened, batch_size=2, steps=0)
    assert table["contender"].tolist() == [OURS, PLAIN, TWO_STAGE] * 2
    assert table["phase"].unique().tolist() == ["backbone frozen", "layer2 layer3 trained"]
    assert (table.loc[table["contender"] == OURS, "ratio"] == 1).all()
    assert (table[["forward", "backward", "update", "data", "pairs_per_second"]] > 0).all().all()
    seconds = table[["forward", "backward", "update"]].sum(axis=1)
    assert np.allclose(table["pairs_per_second"] * seconds, 2)


def test_without_data_noise_is_computed(tiny_profile: MakeProfile) -> None:
    assert bench_training(tiny_profile(), [], batch_size=1, steps=0)["data"].isna().all()


def test_difference_of_curves() -> None:
    steps = np.arange(1, 101)
    reference = pd.DataFrame({"step": steps, "loss": 2.0})
    swing = np.where(steps % 2, 0.1, -0.1)
    mean, error = precision_difference(reference, reference.assign(loss=2.02 + swing * 2))
    assert mean == pytest.approx(0.01)
    assert error == pytest.approx(2 * 0.1 / np.sqrt(50), rel=0.02)
    early = reference.assign(loss=np.where(steps <= 50, 5.0, 2.0))
    assert precision_difference(reference, early) == (0.0, 0.0)


def test_zero_taps_of_shortcuts_are_not_counted(tiny_profile: MakeProfile) -> None:
    """ImageNet's shortcuts are 1x1. If they are trained as 3x3, eight more taps are computed."""
    given = ("model.backbone=resnet50", "train.weights=torchvision")
    settings = {each: (*given, f"train.train_shortcuts={each}") for each in ("false", "true")}
    sizes = network_sizes({name: tiny_profile(*each) for name, each in settings.items()})
    kept, trained = sizes["multiply_adds"]
    assert trained - kept == 8 * 31**2 * (256 * 512 + 512 * 1024)
    assert sizes["parameters"].nunique() == 1


def test_variants_take_turns_in_every_phase(tiny_profile: MakeProfile) -> None:
    settings = ("train.unfreeze_at=0.25", "train.batch_size=1")
    profiles = {name: tiny_profile(*settings, variant=name) for name in ("siammask", "e3sn-s")}
    trackers = {name: Tracker(build_model(profile.model)) for name, profile in profiles.items()}
    sources = open_train_sets(profiles["e3sn-s"].data).opened
    frames = [np.full((90, 120, 3), 40 * index, np.uint8) for index in range(4)]
    table = variant_costs(profiles, sources, trackers, frames, [30, 30, 40, 40], steps=0)
    training = table[table["part"] == "training"].set_index(["variant", "stage", "backbone"])
    assert training["share"].to_dict() == pytest.approx(
        {
            ("siammask", "base", "frozen"): 0.1875,
            ("siammask", "base", "trained"): 0.5625,
            ("siammask", "sharp", "frozen"): 0.25,
            ("e3sn-s", "end_to_end", "frozen"): 0.25,
            ("e3sn-s", "end_to_end", "trained"): 0.75,
        }
    )
    assert table[table["part"] == "tracking"]["variant"].tolist() == ["siammask", "e3sn-s"]
    assert (table["seconds"] > 0).all()
