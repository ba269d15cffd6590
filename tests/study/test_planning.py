"""What a run will take: its phases, the memory of a step, and a dry run that writes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from e3sn_lib.config import Profile
from e3sn_lib.profiles.loading import load_profile
from e3sn_lib.training.schedule import plan
from e3sn_study.bench.dry_run import (
    check_data,
    dry_run,
    saved_bytes,
    state_bytes,
    step_memory,
    step_seconds,
)
from e3sn_study.bench.steps import Stepper, initialise_backbone, noise, phases, take_turns

MakeProfile = Callable[..., Profile]
FREEZING = (
    "train.unfreeze_at=0.5",
    "train.train_layers=[layer2, layer3]",
    "train.optimiser=sgd",
    "train.weights=absent.safetensors",
)


def first_stepper(profile: Profile) -> Stepper:
    torch.manual_seed(0)
    stepper = Stepper(profile)
    initialise_backbone(stepper.model, profile)
    stepper.train_backbone(False)
    return stepper


class TestPhases:
    def test_of_the_paper(self) -> None:
        frozen, trained = phases(load_profile("paper"))
        assert (frozen.backbone, frozen.first_step, frozen.steps) == (False, 0, 93_750)
        assert (trained.backbone, trained.first_step, trained.steps) == (True, 93_750, 93_750)

    def test_of_two_stages(self) -> None:
        found = [
            (each.stage.name, each.backbone, each.steps)
            for each in phases(load_profile("paper", "siammask"))
        ]
        assert found == [("base", False, 93_750), ("base", True, 93_750), ("sharp", False, 62_500)]

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1 / 3, 0.7, 0.99, 1.0])
    @pytest.mark.parametrize("pairs", [2, 14, 20, 22])
    def test_begin_where_the_loop_s_progress_reaches_the_share(
        self, tiny_profile: MakeProfile, share: float, pairs: int
    ) -> None:
        profile = tiny_profile(f"train.unfreeze_at={share}", f"train.pairs={pairs}")
        (stage,) = plan(profile)
        looped = [step / stage.steps >= share for step in range(stage.steps)]
        assert [each.backbone for each in phases(profile) for _ in range(each.steps)] == looped


class TestMemory:
    def test_what_autograd_keeps_is_counted_once(self) -> None:
        start = torch.zeros(1000, requires_grad=True)
        result = []
        # exp and sin keep the same 1000 numbers: one's result is the other's input; sum keeps none
        kept = saved_bytes(lambda: result.append((start + 2).exp().view(10, 100).sin().sum()))
        assert kept == 4000
        assert saved_bytes(lambda: start.detach().exp().sum()) == 0

    def test_of_a_step_is_linear_in_its_pairs(self, tiny_profile: MakeProfile) -> None:
        stepper = first_stepper(tiny_profile(*FREEZING))
        _, per_pair = step_memory(stepper)
        batches = [noise(stepper.profile, stepper.stage, size) for size in (3, 6)]
        less, more = (saved_bytes(partial(stepper.step, batch)) for batch in batches)
        assert (more - less) / 3 == pytest.approx(per_pair, rel=0.01)

    def test_trained_layers_need_more(self, tiny_profile: MakeProfile) -> None:
        stepper = first_stepper(tiny_profile(*FREEZING))
        needed = []
        for trained in (False, True):
            stepper.train_backbone(trained)
            fixed, per_pair = step_memory(stepper)
            needed.append(fixed + 64 * per_pair)
        assert needed[1] > 1.5 * needed[0]

    def test_weights_gradients_and_momentum(self, tiny_profile: MakeProfile) -> None:
        stepper = first_stepper(tiny_profile(*FREEZING))
        weights = sum(
            each.numel() * each.element_size() for each in stepper.model.state_dict().values()
        )
        assert state_bytes(stepper) == weights
        stepper.step(noise(stepper.profile, stepper.stage, 2))
        trained = sum(
            4 * each.numel() for each in stepper.model.parameters() if each.grad is not None
        )
        assert state_bytes(stepper) == weights + 2 * trained


class TestTime:
    def test_entries_take_turns_and_the_first_turn_does_not_count(self) -> None:
        order: list[str] = []

        def call(name: str) -> int:
            order.append(name)
            return len(order)

        entries = {name: partial(call, name) for name in "ab"}
        assert take_turns(entries, 2) == {"a": [3, 5], "b": [4, 6]}
        assert order == ["a", "b"] * 3
        assert take_turns(entries, 0) == {"a": [7], "b": [8]}

    def test_pairs_are_prepared_beside_the_step_or_before_it(self) -> None:
        assert step_seconds(1.0, 0.5, 0) == 1.5
        assert step_seconds(1.0, 0.5, 1) == 1.0
        assert step_seconds(1.0, 6.0, 2) == 3.0
        assert step_seconds(1.0, math.nan, 2) == 1.0

    def test_windows_of_an_image(self) -> None:
        for variant, expected in {"e3sn": [4], "siammask": [16, 9]}.items():
            profile = load_profile("paper", variant)
            batches = [noise(profile, stage, 1) for stage in profile.stages.values()]
            assert [len(batch.sample_labels) for batch in batches] == expected


class TestDryRun:
    def test_of_a_small_run(self, tiny_profile: MakeProfile, tmp_path: Path) -> None:
        settings = ("train.unfreeze_at=0.5", "train.train_layers=[layer3]")
        profile = tiny_profile(*settings, variant="siammask")
        plan_ = dry_run(profile, tmp_path / "runs")
        assert plan_.problems == []
        assert plan_.sets["state"].tolist() == ["present"]
        assert plan_.sets["tracks"][0] >= 3
        assert plan_.phases["pairs"].sum() == 16
        assert plan_.phases["first rate"].iloc[0] == profile.train.lr[0]
        assert (plan_.phases[["GB needed", "s/step", "hours", "ms/pair drawn"]] > 0).all().all()
        assert "would begin" in plan_.notes[-1]
        assert list(tmp_path.iterdir()) == []

    def test_without_data_the_rest_is_told(self, tiny_profile: MakeProfile, tmp_path: Path) -> None:
        profile = tiny_profile("data.train=[{kind: davis, path: absent}]", "train.train_layers=[]")
        plan_ = dry_run(profile, tmp_path / "runs")
        (problem,) = plan_.problems
        assert "training set davis (absent) is absent" in problem
        assert "get it from" in problem
        assert plan_.phases["timed"].tolist() == ["2 of noise"]
        assert (plan_.phases["s/step"] > 0).all()

    def test_no_data_folder_at_all(self) -> None:
        table, sets, problems = check_data(load_profile("paper").data)
        assert table.empty
        assert sets.opened == []
        assert problems == [
            "no data folder: give one with --data DIR or in the environment variable E3SN_DATA"
        ]
