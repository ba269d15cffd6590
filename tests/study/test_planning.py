"""What a run will cost: its phases, arithmetic against counts by hand, and a dry run that writes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from e3sn_lib.config import Profile
from e3sn_lib.profiles.loading import load_profile
from e3sn_lib.training.schedule import plan
from e3sn_study.bench.dry_run import check_data, dry_run
from e3sn_study.bench.planning import (
    GPUS,
    Gpu,
    PhaseCost,
    StepCost,
    StepMeter,
    count_step,
    flop_counter,
    gpu_estimate,
    gpu_seconds,
    phases,
    state_bytes,
    step_seconds,
)
from e3sn_study.bench.steps import Stepper, initialise_backbone, noise, windows_per_image

MakeProfile = Callable[..., Profile]
FREEZING = (
    "train.unfreeze_at=0.5",
    "train.train_layers=[layer2, layer3]",
    "train.optimiser=sgd",
    "train.weights=absent.safetensors",
)


def first_stepper(profile: Profile) -> Stepper:
    torch.manual_seed(0)
    stepper = Stepper(profile, next(iter(profile.stages.values())))
    initialise_backbone(stepper.model, profile)
    stepper.train_backbone(False)
    return stepper


def hand_count(module: nn.Module, run: Callable[[], object]) -> dict[str, int]:
    """Operations of a module's convolutions by name: two for each weight that each output value is summed over."""
    counted: dict[str, int] = {}
    handles = []
    for name, each in module.named_modules():
        if isinstance(each, nn.Conv2d):

            def count(conv: nn.Module, _: object, out: torch.Tensor, name: str = name) -> None:
                counted[name] = counted.get(name, 0) + 2 * out.numel() * conv.weight[0].numel()

            handles.append(each.register_forward_hook(count))
    run()
    for handle in handles:
        handle.remove()
    return counted


class TestPhases:
    def test_of_the_paper(self) -> None:
        profile = load_profile("paper")
        frozen, trained = phases(profile)
        assert (frozen.backbone, frozen.first_step, frozen.steps) == (False, 0, 93_750)
        assert (trained.backbone, trained.first_step, trained.steps) == (True, 93_750, 93_750)
        assert frozen.rates(profile) == pytest.approx((2e-3, 0.000672), rel=1e-3)
        assert trained.rates(profile) == pytest.approx((0.000595, 2e-4), rel=1e-3)

    def test_of_two_stages(self) -> None:
        found = [(each.stage.name, each.backbone, each.steps) for each in phases(load_profile("paper", "siammask"))]
        assert found == [("base", False, 93_750), ("base", True, 93_750), ("sharp", False, 62_500)]

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1 / 3, 0.7, 0.99, 1.0])
    @pytest.mark.parametrize("pairs", [2, 14, 20, 22])
    def test_begin_where_the_loop_s_progress_reaches_the_share(self, tiny_profile: MakeProfile, share: float, pairs: int) -> None:
        profile = tiny_profile(f"train.unfreeze_at={share}", f"train.pairs={pairs}")
        (stage,) = plan(profile)
        looped = [step / stage.steps >= share for step in range(stage.steps)]
        assert [each.backbone for each in phases(profile) for _ in range(each.steps)] == looped


class TestArithmetic:
    def test_convolution(self) -> None:
        features, weight = torch.randn(2, 8, 13, 13, requires_grad=True), torch.randn(16, 8, 3, 3, requires_grad=True)
        with flop_counter() as counter:
            F.conv2d(features, weight)
        assert counter.get_total_flops() == 2 * 2 * 11 * 11 * 16 * 8 * 9

    @pytest.mark.parametrize("groups", [1, 4, 16])
    def test_both_gradients_have_as_many_as_the_convolution(self, groups: int) -> None:
        features = torch.randn(2, 16, 13, 13, requires_grad=True)
        weight = torch.randn(16, 16 // groups, 5, 5, requires_grad=True)
        forward = 2 * 2 * 9 * 9 * 16 * (16 // groups) * 25
        with flop_counter() as counter:
            F.conv2d(features, weight, groups=groups).sum().backward()
        assert counter.get_total_flops() == 3 * forward
        with flop_counter() as counter:
            F.conv2d(features.detach(), weight, groups=groups).sum().backward()
        assert counter.get_total_flops() == 2 * forward

    @pytest.mark.parametrize("shortcuts", [True, False])
    def test_training_layers_costs_twice_their_forward(self, tiny_profile: MakeProfile, shortcuts: bool) -> None:
        stepper = first_stepper(tiny_profile(*FREEZING, f"train.train_shortcuts={str(shortcuts).lower()}"))
        batch = noise(stepper.profile, stepper.stage, 2)
        counts = []
        for trained in (False, True):
            stepper.train_backbone(trained)
            forward = hand_count(stepper.model.backbone, lambda: stepper.step(batch))
            with flop_counter() as counter:
                stepper.step(batch)
            counts.append((counter.get_total_flops(), forward))
        (frozen, before), (trained_, after) = counts
        layers = sum(count for name, count in after.items() if name.startswith(("layer2", "layer3")))
        # a shortcut's extra taps are computed in the forward pass as well, once they are trained
        backward = trained_ - frozen - (sum(after.values()) - sum(before.values()))
        assert backward == pytest.approx(2 * layers, rel=0.15)

    def test_a_step_of_the_whole_network_is_linear_in_its_pairs(self, tiny_profile: MakeProfile) -> None:
        stepper = first_stepper(tiny_profile(*FREEZING))
        small, large = (count_step(stepper, torch.float32, sizes) for sizes in ((2, 3), (3, 4)))
        assert small.flops == large.flops
        assert small.per_pair == pytest.approx(large.per_pair, rel=0.05)


class TestMemory:
    def test_what_is_held_at_once(self) -> None:
        start = torch.zeros(1000)
        with StepMeter() as meter:
            first = start + 1
            second = first + 1
            del first
            third = second[10:] + 1
            del second
        assert (meter.live, meter.peak) == (3960, 8000)
        assert meter.moved == 4 * (2 * 1000 + 2 * 1000 + 2 * 990)
        del third
        assert meter.live == 0

    def test_what_autograd_keeps_is_held(self) -> None:
        start = torch.zeros(1000, requires_grad=True)
        with StepMeter() as meter:
            loss = (start * 2).exp().sum()
            assert meter.live == 4000 + 4  # exp keeps its result for the gradient
            loss.backward()
            del loss
        assert meter.live == 4000  # the gradient

    def test_trained_layers_need_more(self, tiny_profile: MakeProfile) -> None:
        stepper = first_stepper(tiny_profile(*FREEZING))
        costs = []
        for trained in (False, True):
            stepper.train_backbone(trained)
            costs.append(count_step(stepper, torch.float32))
        assert costs[1].memory(64) > 1.5 * costs[0].memory(64)
        assert costs[1].flops > costs[0].flops

    def test_weights_and_momentum(self, tiny_profile: MakeProfile) -> None:
        stepper = first_stepper(tiny_profile(*FREEZING))
        weights = sum(each.numel() * each.element_size() for each in stepper.model.state_dict().values())
        assert state_bytes(stepper) == weights
        stepper.step(noise(stepper.profile, stepper.stage, 2))
        trained = sum(4 * each.numel() for each in stepper.model.parameters() if each.grad is not None)
        assert state_bytes(stepper) == weights + trained


class TestEstimates:
    def test_hours_and_memory(self) -> None:
        gpu = Gpu(10.0, 100.0, 8.0, "made up")
        costs = [PhaseCost(1000, StepCost(4e9, 7e7, 1e6, 0.0), 10**9), PhaseCost(2000, StepCost(8e9, 7e7, 1e7, 1e9), 10**9)]
        assert gpu_seconds(gpu, costs[0].step) == pytest.approx(0.001 + 0.001)
        hours, memory = gpu_estimate(gpu, costs, 100)
        assert hours == pytest.approx((1000 * 0.002 + 2000 * 0.003) / 3600)
        assert memory == pytest.approx(1 + 2 + 1)

    def test_peak_figures_have_a_source(self) -> None:
        assert all(gpu.source and gpu.half_tflops > 10 and gpu.bandwidth > 100 for gpu in GPUS.values())

    def test_pairs_are_prepared_beside_the_step_or_before_it(self) -> None:
        assert step_seconds(1.0, 0.5, 0) == 1.5
        assert step_seconds(1.0, 0.5, 1) == 1.0
        assert step_seconds(1.0, 6.0, 2) == 3.0
        assert step_seconds(1.0, math.nan, 2) == 1.0

    def test_windows_of_an_image(self) -> None:
        assert windows_per_image(load_profile("paper"), load_profile("paper").stages["end_to_end"]) == 4
        siammask = load_profile("paper", "siammask")
        assert [windows_per_image(siammask, stage) for stage in siammask.stages.values()] == [16, 9]


class TestDryRun:
    @pytest.mark.parametrize("variant", ["e3sn", "siammask"])
    def test_of_a_small_run(self, tiny_profile: MakeProfile, tmp_path: Path, variant: str) -> None:
        profile = tiny_profile("train.unfreeze_at=0.5", "train.precision=bf16", "train.train_layers=[layer3]", variant=variant)
        plan_ = dry_run(profile, tmp_path / "runs")
        assert plan_.problems == []
        assert plan_.sets["state"].tolist() == ["ok"]
        assert plan_.sets["tracks"][0] >= 3
        assert plan_.phases["pairs"].sum() == 16
        assert (plan_.phases[["GFLOP/pair", "GB of tensors", "s/step", "hours", "ms/pair drawn"]] > 0).all().all()
        assert (plan_.gpus[["hours", "GB"]] > 0).all().all()
        assert "would begin" in plan_.files[0]
        assert list(tmp_path.iterdir()) == []

    def test_without_data_the_rest_is_told(self, tiny_profile: MakeProfile, tmp_path: Path) -> None:
        profile = tiny_profile("data.train=[{kind: davis, path: absent}]", "train.unfreeze_at=0.0")
        plan_ = dry_run(profile, tmp_path / "runs")
        (problem,) = plan_.problems
        assert "training set davis is absent" in problem
        assert "get it from" in problem
        assert plan_.phases["timed"].tolist() == ["2 of noise"]
        assert (plan_.phases["s/step"] > 0).all()

    def test_no_data_folder_at_all(self) -> None:
        table, sets, problems = check_data(load_profile("paper").data)
        assert table.empty
        assert sets.opened == []
        assert problems == ["no data folder: give one with --data DIR or in the environment variable E3SN_DATA"]
