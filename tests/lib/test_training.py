"""The training loop: schedules as published, what is frozen stays frozen, a killed run goes on as if it had not been."""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from e3sn_lib.config import Profile, StageConfig, TrainConfig, TrainSetConfig
from e3sn_lib.data.davis import davis_sequences, davis_tracks
from e3sn_lib.data.pairs import Pair, PairDataset, collate
from e3sn_lib.data.types import TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.losses import Counts, compute_losses, count_targets
from e3sn_lib.model.device import bf16_is_faster, has_native_bf16, precision_of
from e3sn_lib.model.network import E3SN, Output, build_model
from e3sn_lib.model.weights import load_model
from e3sn_lib.model.windows import Cells
from e3sn_lib.profiles.identity import config_hash, training_settings
from e3sn_lib.profiles.loading import load_profile
from e3sn_lib.tracking.tracker import Tracker
from e3sn_lib.training import loop
from e3sn_lib.training.loop import Trainer
from e3sn_lib.training.schedule import (
    build_optimiser,
    learning_rate,
    parameter_groups,
    plan,
    set_trainable,
    warmed_average,
)
from e3sn_lib.training.state import CHECKPOINT, LOCK, read_checkpoint, write_checkpoint
from e3sn_study.evaluation.benchmark import evaluate_tracker

MakeProfile = Callable[..., Profile]
Source = tuple[TrackSet, TrainSetConfig]


def silent(_: str) -> None:
    pass


@pytest.fixture
def source(data_root: Path) -> Source:
    return davis_tracks(data_root / "synthetic", 2016, "train"), TrainSetConfig(
        "synthetic", ("synthetic",), frame_range=3
    )


def first_stage(profile: Profile) -> StageConfig:
    return next(iter(profile.stages.values()))


class TestSchedule:
    PAPER = """.002 .001772 .00157 .00139 .001232 .001091 .000967 .000856 .000759 .000672
               .000595 .000527 .000467 .000414 .000367 .000325 .000288 .000255 .000226 .0002"""
    SECOND_STAGE = """.01 .0093 .00864 .00803 .00747 .00694 .00645 .006 .00558 .00519
                      .00482 .00448 .00417 .00387 .0036 .00335 .00311 .00289 .00269 .0025"""

    FIRST_STAGE = """.001 .00138 .0019 .00263 .00362 .005 .00476 .00453 .00431 .0041
                     .0039 .00371 .00354 .00336 .0032 .00305 .0029 .00276 .00263 .0025"""

    @pytest.mark.parametrize(
        ("variant", "stage", "rates"),
        [
            ("e3sn", "end_to_end", PAPER),
            ("siammask", "base", FIRST_STAGE),
            ("siammask", "sharp", SECOND_STAGE),
        ],
    )
    def test_rates_by_epoch_as_published(self, variant: str, stage: str, rates: str) -> None:
        profile = load_profile("paper", variant)
        planned = next(each for each in plan(profile) if each.name == stage)
        steps = [math.ceil(epoch * planned.steps / 20) for epoch in range(20)]
        for at in (
            steps,
            [step - 1 for step in [*steps[1:], planned.steps]],
        ):  # an epoch's first and last step
            found = [
                learning_rate(step, planned.steps, profile.train, planned.config) for step in at
            ]
            assert found == pytest.approx([float(rate) for rate in rates.split()], rel=2e-3)

    def test_continuous_decay_keeps_its_ratio(self) -> None:
        config = TrainConfig(lr=(1e-2, 1e-4), epochs=0)
        rates = [learning_rate(step, 101, config, StageConfig()) for step in range(101)]
        assert (rates[0], rates[50], rates[100]) == pytest.approx((1e-2, 1e-3, 1e-4))
        assert np.ptp(np.diff(np.log(rates))) < 1e-9

    def test_warm_up_rises_to_the_first_rate(self) -> None:
        config = TrainConfig(lr=(1e-2, 1e-4), epochs=0, warmup=0.1)
        rates = [learning_rate(step, 100, config, StageConfig()) for step in range(100)]
        assert np.ptp(np.diff(rates[:11])) < 1e-9
        assert (rates[10], rates[99]) == pytest.approx((1e-2, 1e-4))
        assert rates.index(max(rates)) == 10

    def test_one_step_has_the_first_rate(self) -> None:
        assert learning_rate(0, 1, TrainConfig(epochs=0), StageConfig()) == 2e-3
        assert learning_rate(0, 1, TrainConfig(), StageConfig(lr=(5e-3, 1e-3))) == 5e-3

    def test_stages_divide_the_pairs(self) -> None:
        base, sharp = plan(
            load_profile("smoke", "siammask", ["train.pairs=800", "train.batch_size=8"])
        )
        assert (base.name, base.first_step, base.steps) == ("base", 0, 75)
        assert (sharp.name, sharp.first_step, sharp.steps) == ("sharp", 75, 25)
        assert [each.steps for each in plan(load_profile("paper"))] == [12_000_000 // 64]


class TestParameterGroups:
    def named(
        self, profile: Profile, location: bool = True
    ) -> tuple[E3SN, dict[str, set[str]], dict[str, dict]]:
        with torch.device("meta"):
            model = build_model(profile.model)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = {
            group["name"]: group for group in parameter_groups(model, profile.train, location)
        }
        listed = {
            name: [names[id(parameter)] for parameter in group["params"]]
            for name, group in groups.items()
        }
        every = [name for group in listed.values() for name in group]
        assert len(every) == len(set(every))
        return model, {name: set(group) for name, group in listed.items()}, groups

    def test_of_the_paper(self) -> None:
        model, names, groups = self.named(load_profile("paper"))
        assert {name: group["scale"] for name, group in groups.items()} == {
            "backbone": 0.1,
            "location": 1.0,
            "mask": 0.1,
            "fusion": 0.1,
        }
        assert {
            name: group.get("weight_decay")
            for name, group in groups.items()
            if "weight_decay" in group
        } == {"fusion": 0.0}
        assert names["fusion"] == {"mask.fusion.scalars"}
        assert {name.split(".")[0] for name in names["location"]} == {"neck", "rpn"}
        assert {name.split(".")[0] for name in names["mask"]} == {"mask", "refine"}
        assert {".".join(name.split(".")[:2]) for name in names["backbone"]} == {
            "backbone.layer2",
            "backbone.layer3",
        }
        left = {name for name, _ in model.named_parameters()} - set().union(*names.values())
        assert {".".join(name.split(".")[:2]) for name in left} == {
            "backbone.conv1",
            "backbone.bn1",
            "backbone.layer1",
        }

    def test_without_the_location_the_rest_stays_out(self) -> None:
        _, names, _ = self.named(load_profile("paper", "siammask"), location=False)
        assert {name.split(".")[0] for name in names["mask"]} == {"mask", "refine", "base_head"}
        assert set(names) == {"mask"}  # fixed fusion has no weights

    def test_shortcuts_may_be_left_alone(self) -> None:
        profile = load_profile("paper", overrides=["train.train_shortcuts=false"])
        _, names, _ = self.named(profile)
        assert not names["backbone"] & {
            "backbone.layer2.0.downsample.0.weight",
            "backbone.layer3.0.downsample.0.weight",
        }

    @pytest.mark.parametrize(
        ("kind", "of"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)]
    )
    def test_the_optimiser_decays_all_but_the_fusion(
        self, tiny_profile: MakeProfile, kind: str, of: type
    ) -> None:
        profile = tiny_profile(
            f"train.optimiser={kind}", "train.weight_decay=0.25", "train.momentum=0.7"
        )
        optimiser = build_optimiser(
            parameter_groups(build_model(profile.model), profile.train, True), profile.train
        )
        assert isinstance(optimiser, of)
        decay = {group["name"]: group["weight_decay"] for group in optimiser.param_groups}
        assert decay == {"backbone": 0.25, "location": 0.25, "mask": 0.25, "fusion": 0.0}
        assert kind != "sgd" or optimiser.param_groups[0]["momentum"] == 0.7


def imagenet(profile: Profile, folder: Path) -> Path:
    """A file of backbone weights, random here, that half precision holds exactly."""
    torch.manual_seed(5)
    backbone = build_model(profile.model).backbone
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    path = folder / "backbone.safetensors"
    state = {
        key: value.half().float() if value.dim() > 1 else value
        for key, value in backbone.state_dict().items()
    }
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


class TestFreezing:
    def step(
        self, profile: Profile, source: Source, location: bool, backbone: bool
    ) -> tuple[dict[str, set[str]], E3SN]:
        """Which parts have gradients, and whose batch-norm statistics change, in one step of a stage."""
        torch.manual_seed(0)
        model = build_model(profile.model)
        stage = replace(first_stage(profile), train_location=location)
        groups = parameter_groups(model, profile.train, location)
        set_trainable(model, groups, profile.train, train_backbone=backbone)
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        pairs = PairDataset([source], profile, stage, 2)
        loss, _ = compute_losses(model, collate([pairs[0], pairs[1]]), profile, stage)
        loss.backward()

        def parts(names: Iterator[str]) -> set[str]:
            return {
                ".".join(name.split(".")[: 2 if name.startswith("backbone") else 1])
                for name in names
            }

        moved = parts(
            name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])
        )
        learning = parts(
            name for name, parameter in model.named_parameters() if parameter.grad is not None
        )
        return {"learning": learning, "statistics": moved}, model

    PAPER = (
        "train.train_layers=[layer2, layer3]",
        "train.weights=torchvision",
        "data.negative_pairs=0",
    )

    def test_first_half(self, tiny_profile: MakeProfile, source: Source) -> None:
        found, _ = self.step(tiny_profile(*self.PAPER), source, location=True, backbone=False)
        assert found["learning"] == {"neck", "rpn", "mask", "refine"}
        assert found["statistics"] == {"neck", "rpn", "mask"}  # the refinement has no batch-norm

    def test_second_half_trains_layers_but_not_their_statistics(
        self, tiny_profile: MakeProfile, source: Source
    ) -> None:
        found, model = self.step(tiny_profile(*self.PAPER), source, location=True, backbone=True)
        assert found["learning"] == {
            "neck",
            "rpn",
            "mask",
            "refine",
            "backbone.layer2",
            "backbone.layer3",
        }
        assert found["statistics"] == {"neck", "rpn", "mask"}
        assert not any(shortcut.centre_only for shortcut in model.backbone.shortcuts)

    def test_the_second_stage_of_two_trains_the_mask_alone(
        self, tiny_profile: MakeProfile, source: Source
    ) -> None:
        found, _ = self.step(
            tiny_profile("data.negative_pairs=0"), source, location=False, backbone=True
        )
        assert found == {"learning": {"mask", "refine"}, "statistics": {"mask"}}

    def test_from_nothing_all_is_trained(self, tiny_profile: MakeProfile, source: Source) -> None:
        found, _ = self.step(
            tiny_profile("data.negative_pairs=0"), source, location=True, backbone=True
        )
        backbone = {f"backbone.{name}" for name in ("conv1", "bn1", "layer1", "layer2", "layer3")}
        everything = {"neck", "rpn", "mask", "refine"} | backbone
        assert found["learning"] == everything
        assert found["statistics"] == everything - {"refine", "backbone.conv1"}

    def test_over_a_run(self, tiny_profile: MakeProfile, source: Source, tmp_path: Path) -> None:
        """Unfrozen at half time, the deep layers move; all before them, and all statistics of the backbone, stay bit for bit."""
        weights = imagenet(tiny_profile(), tmp_path)
        profile = tiny_profile(
            "train.train_layers=[layer2, layer3]",
            f"train.weights={weights}",
            "train.unfreeze_at=0.5",
            "train.pairs=4",
        )
        model, _ = load_model(Trainer(profile, [source], tmp_path / "run").run(silent))
        start = build_model(profile.model).backbone
        start.load_state_dict(load_file(weights))
        for name, value in start.state_dict().items():
            same = torch.equal(model.backbone.state_dict()[name], value)
            frozen = (
                name.startswith(("conv1", "bn1", "layer1"))
                or "running" in name
                or "num_batches" in name
            )
            assert same == frozen, name
        assert model.neck[1].num_batches_tracked == 4  # template and search of two steps


class TestLosses:
    def test_equation_3_of_undecided_outputs(
        self, tiny_profile: MakeProfile, source: Source
    ) -> None:
        profile = tiny_profile("data.negative_pairs=0")
        stage = first_stage(profile)
        pairs = PairDataset([source], profile, stage, 2)
        batch = collate([pairs[0], pairs[1]])

        def undecided(*_: object) -> Output:
            offsets = (
                torch.from_numpy(np.stack([pairs[0].offsets, pairs[1].offsets])) + 3.0
            )  # smooth L1: 4 times 2.5
            return Output(
                torch.zeros(2, 2, 5, 25, 25),
                offsets,
                torch.zeros(len(batch.sample_labels), 127, 127),
            )

        total, parts = compute_losses(undecided, batch, profile, stage)
        log2 = math.log(2)
        assert parts["cls"].item() == pytest.approx(log2)
        assert parts["mask"].item() == pytest.approx(log2)
        assert parts["loc"].item() == pytest.approx(10, rel=1e-4)
        assert total.item() == pytest.approx(log2 + 10 + 32 * log2, rel=1e-4)
        assert parts["mask_iou"] == 0
        total, parts = compute_losses(
            undecided, batch, profile, replace(stage, train_location=False)
        )
        assert total.item() == pytest.approx(32 * log2)
        assert "cls" not in parts

    def test_mask_iou_of_no_positive_is_unknown(
        self, tiny_profile: MakeProfile, source: Source, tiny_model: E3SN
    ) -> None:
        profile = tiny_profile("data.negative_pairs=1")
        pairs = PairDataset([source], profile, first_stage(profile), 50)
        negative = next(pair for pair in (pairs[number] for number in range(50)) if pair.negative)
        with torch.no_grad():
            total, parts = compute_losses(
                tiny_model, collate([negative]), profile, first_stage(profile)
            )
        assert math.isnan(parts["mask_iou"])
        assert parts["mask"] == parts["loc"] == 0
        assert torch.equal(total, parts["cls"])


class TestPrecision:
    def test_what_is_asked_for(self) -> None:
        cpu = torch.device("cpu")
        assert precision_of("fp32", cpu) == torch.float32
        assert precision_of("bf16", cpu) == torch.bfloat16
        faster = has_native_bf16() and bf16_is_faster()
        assert precision_of("auto", cpu) == (torch.bfloat16 if faster else torch.float32)
        assert precision_of("auto", torch.device("meta")) == torch.float32


def test_one_clip_can_be_learnt_by_heart(
    tiny_profile: MakeProfile, source: Source, data_root: Path, tmp_path: Path
) -> None:
    """The loss falls, the masks of the crops become right, and the tracker finds its object in the whole frames."""
    clip = replace(
        source[0], tracks=tuple(track for track in source[0].tracks if track.name == "fish-1")
    )
    assert len(clip.tracks) == 1
    profile = tiny_profile(
        "train.pairs=56", "train.lr=[4.0e-3, 1.0e-3]", "train.log_every=7", "data.negative_pairs=0", "augment.colour=0",
        "augment.blur=0", "augment.grey=0", "augment.flip=0", "augment.search_shift=16",
    )  # fmt: skip
    trainer = Trainer(profile, [(clip, source[1])], tmp_path / "run")
    sequence = davis_sequences(data_root / "synthetic", 2016, "train", ["fish-1"])

    def tracked(name: str) -> float:
        scores, _ = evaluate_tracker(
            Tracker(trainer.model), sequence, tmp_path / name, extras=False, show=silent
        )
        return float(scores["J-Mean"].mean())

    untrained = tracked("before")
    trainer.run(silent)
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    first, last = log.iloc[0], log.iloc[-1]
    assert last["loss"] < first["loss"] / 4
    assert (last[["cls", "loc", "mask"]] < first[["cls", "loc", "mask"]]).all()
    assert last["mask_iou"] > max(0.75, first["mask_iou"] + 0.2)
    assert (
        tracked("after") > untrained + 0.1
    )  # 28 steps hardly settle the statistics that tracking relies on


class InterruptionError(Exception):
    pass


def interrupt_at(pair: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break off when the run's pair of this number is wanted."""
    draw = PairDataset.__getitem__

    def broken(dataset: PairDataset, index: int) -> Pair:
        if dataset.first + index == pair:
            raise InterruptionError
        return draw(dataset, index)

    monkeypatch.setattr(PairDataset, "__getitem__", broken)


def files(folder: Path) -> set[str]:
    """But the lock, which tells by being locked, not by being there."""
    return {path.name for path in folder.iterdir()} - {LOCK}


class TestLegs:
    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Steps that compute nothing."""
        monkeypatch.setattr(Trainer, "_step", lambda *_: {"loss": 1.0})

    def test_a_run_starts_from_a_whole_model(
        self,
        tiny_profile: MakeProfile,
        source: Source,
        tmp_path: Path,
        tiny_model_file: Path,
        tiny_model: E3SN,
    ) -> None:
        trainer = Trainer(tiny_profile(f"train.init_weights={tiny_model_file}"), [source], tmp_path)
        state = trainer.model.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in tiny_model.state_dict().items())

    def test_its_name_depends_on_what_the_model_holds(
        self, tiny_profile: MakeProfile, tmp_path: Path, tiny_model_file: Path
    ) -> None:
        copy, other = tmp_path / "copy.safetensors", tmp_path / "other.safetensors"
        copy.write_bytes(tiny_model_file.read_bytes())
        other.write_bytes(b"other")
        one, same, another = (
            config_hash(training_settings(tiny_profile(f"train.init_weights={path}")))
            for path in (tiny_model_file, copy, other)
        )
        assert one == same
        assert len({one, another, config_hash(training_settings(tiny_profile()))}) == 3

    def test_a_model_that_does_not_fit_is_refused(
        self, tiny_profile: MakeProfile, source: Source, tmp_path: Path, tiny_model_file: Path
    ) -> None:
        start = f"train.init_weights={tiny_model_file}"
        for settings, words in [
            ((start, "model.channels=32"), "does not fit this network: .*misshapen"),
            ((start, "train.init_sha256=abc"), "is another model: its SHA-256"),
            (
                (f"train.init_weights={tmp_path / 'none'}",),
                "cannot read .*give the file of a trained model",
            ),
        ]:
            with pytest.raises(InputError, match=words):
                Trainer(tiny_profile(*settings), [source], tmp_path)

    @pytest.mark.usefixtures("quick")
    def test_a_run_whose_folder_is_gone_goes_on_from_its_backup(
        self,
        tiny_profile: MakeProfile,
        source: Source,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        backup = tmp_path / "elsewhere"
        profile = tiny_profile(
            "train.pairs=12", "train.checkpoint_every=2", f"train.backup={backup}"
        )
        assert training_settings(profile) == training_settings(
            tiny_profile("train.pairs=12", "train.checkpoint_every=2")
        )
        with monkeypatch.context() as broken:
            interrupt_at(10, broken)
            with pytest.raises(InterruptionError):
                Trainer(profile, [source], tmp_path / "run").run(silent)
        copies = [folder / CHECKPOINT for folder in (tmp_path / "run", backup / "run")]
        assert copies[0].read_bytes() == copies[1].read_bytes()
        shutil.rmtree(tmp_path / "run")
        lines: list[str] = []
        Trainer(profile, [source], tmp_path / "run").run(lines.append)
        assert "from step 4" in lines[0]


class TestResume:
    @pytest.mark.parametrize(
        ("variant", "settings", "step"),
        [
            (
                "e3sn",
                ("train.optimiser=adamw", "train.unfreeze_at=0.5", "train.weights={weights}"),
                5,
            ),
            (
                "siammask",
                ("train.optimiser=sgd", "stages.base.share=0.5", "stages.sharp.share=0.5"),
                5,
            ),
            (
                "siammask",
                ("train.optimiser=sgd", "stages.base.share=0.5", "stages.sharp.share=0.5"),
                3,
            ),
        ],
    )
    def test_a_killed_run_ends_like_an_undisturbed_one(
        self,
        tiny_profile: MakeProfile,
        source: Source,
        tmp_path: Path,
        variant: str,
        settings: tuple[str, ...],
        step: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        weights = imagenet(tiny_profile(), tmp_path)
        settings = tuple(text.format(weights=weights) for text in settings)
        profile = tiny_profile(
            "train.pairs=12", "train.checkpoint_every=2", *settings, variant=variant
        )
        whole = Trainer(profile, [source], tmp_path / "whole").run(silent)

        with monkeypatch.context() as broken:
            interrupt_at(2 * step, broken)
            trainer = Trainer(profile, [source], tmp_path / "parts")
            with pytest.raises(InterruptionError):
                trainer.run(silent)
        assert files(tmp_path / "parts") == {"config.yaml", "env.json", "log.csv", CHECKPOINT}
        lines: list[str] = []
        parts = Trainer(profile, [source], tmp_path / "parts").run(lines.append)
        assert f"from step {4 if step == 5 else 3}" in lines[0]

        weights_of = [load_file(path) for path in (whole, parts)]
        assert weights_of[0].keys() == weights_of[1].keys()
        assert all(torch.equal(value, weights_of[1][name]) for name, value in weights_of[0].items())
        logs = [pd.read_csv(path.parent / "log.csv") for path in (whole, parts)]
        measured = [
            name
            for name in logs[0]
            if name not in ("pairs_per_second", "data_share", "peak_memory_mb", "seconds")
        ]
        pd.testing.assert_frame_equal(logs[0][measured], logs[1][measured], check_exact=True)
        assert files(tmp_path / "whole") == files(tmp_path / "parts") == {
            "config.yaml", "env.json", "log.csv", CHECKPOINT, "model.safetensors", "summary.json"
        }  # fmt: skip

    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Steps that compute nothing."""
        monkeypatch.setattr(Trainer, "_step", lambda *_: {"loss": 1.0})

    @pytest.mark.usefixtures("quick")
    def test_of_other_settings_or_another_variant_is_refused(
        self, tiny_profile: MakeProfile, source: Source, tmp_path: Path
    ) -> None:
        Trainer(tiny_profile("train.pairs=4"), [source], tmp_path).run(silent)
        content = (tmp_path / CHECKPOINT).read_bytes(), (tmp_path / "config.yaml").read_bytes()
        others = [
            tiny_profile("train.pairs=4", "train.momentum=0.5"),
            tiny_profile("train.pairs=4", seed=1),
            tiny_profile("train.pairs=4", variant="e3sn-s"),
        ]
        for other in others:
            with pytest.raises(
                InputError, match=r"checkpoint\.pt belongs to a run with other settings"
            ) as caught:
                Trainer(other, [source], tmp_path).run(silent)
            assert "\n" not in str(caught.value)
        assert (
            (tmp_path / CHECKPOINT).read_bytes(),
            (tmp_path / "config.yaml").read_bytes(),
        ) == content
        Trainer(
            tiny_profile("train.pairs=4", "data.workers=1", "train.log_every=1"), [source], tmp_path
        ).run(silent)

    @pytest.mark.parametrize("kind", ["text", "empty", "cut", "other"])
    @pytest.mark.usefixtures("quick")
    def test_of_another_kind_is_refused(
        self, tiny_profile: MakeProfile, source: Source, tmp_path: Path, kind: str
    ) -> None:
        path = tmp_path / CHECKPOINT
        torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}, "epoch": 3}, path)
        whole = path.read_bytes()
        path.write_bytes(
            {
                "text": b"not a checkpoint\n",
                "empty": b"",
                "cut": whole[: len(whole) // 2],
                "other": whole,
            }[kind]
        )
        with pytest.raises(
            InputError, match=r"checkpoint\.pt is damaged or no checkpoint"
        ) as caught:
            Trainer(tiny_profile("train.pairs=4"), [source], tmp_path).run(silent)
        assert "\n" not in str(caught.value)
        assert files(tmp_path) == {CHECKPOINT}

    @pytest.mark.usefixtures("quick")
    def test_an_interrupted_write_keeps_the_older_checkpoint(
        self,
        tiny_profile: MakeProfile,
        source: Source,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        profile = tiny_profile("train.pairs=8", "train.checkpoint_every=1")
        save, saved = torch.save, []

        def fail_at_third(content: object, path: Path) -> None:
            if len(saved) == 2:
                path.write_bytes(b"half")
                raise KeyboardInterrupt
            saved.append(path)
            save(content, path)

        monkeypatch.setattr(torch, "save", fail_at_third)
        with pytest.raises(KeyboardInterrupt):
            Trainer(profile, [source], tmp_path).run(silent)
        assert files(tmp_path) == {CHECKPOINT, "config.yaml", "env.json", "log.csv"}
        monkeypatch.undo()
        assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]["step"] == 2


def test_changed_bytes_of_a_checkpoint_are_noticed(
    tiny_profile: MakeProfile, tmp_path: Path
) -> None:
    """Each of 200 flipped bits either is refused or changes nothing that is read."""
    profile, path = tiny_profile(), tmp_path / CHECKPOINT
    written = {
        "model": {"weight": torch.arange(500.0)},
        "state": {"seconds": 1.5, "rows": [{"loss": 0.25}]},
    }
    write_checkpoint(tmp_path, profile, "float32", written, step=1)
    whole, draw, refused = path.read_bytes(), np.random.default_rng(0), 0
    for place, bit in zip(
        draw.integers(len(whole), size=200), draw.integers(8, size=200), strict=True
    ):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(bit)
        path.write_bytes(changed)
        try:
            content = read_checkpoint(tmp_path, profile)
        except InputError:
            refused += 1
        else:
            assert content is not None
            assert torch.equal(content["model"]["weight"], written["model"]["weight"])
            assert content["state"] == written["state"]
    assert refused > 100


def test_killed_before_its_model_is_written_a_run_is_finished_by_the_next(
    tiny_profile: MakeProfile, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds the model takes the run for finished, so all else is there before it."""
    monkeypatch.setattr(Trainer, "_step", lambda *_: {"loss": 1.0})

    def killed(*_: object, **__: object) -> None:
        raise InterruptionError

    with monkeypatch.context() as broken:
        broken.setattr(loop, "save_model", killed)
        with pytest.raises(InterruptionError):
            Trainer(tiny_profile(), [source], tmp_path).run(silent)
    assert (tmp_path / "summary.json").is_file()
    load_model(Trainer(tiny_profile(), [source], tmp_path).run(silent))


def test_an_average_that_is_not_finite_is_refused(
    tiny_profile: MakeProfile, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_step", lambda *_: {"loss": 1.0})
    trainer = Trainer(tiny_profile("train.average=0.5"), [source], tmp_path)
    assert trainer.average is not None
    trainer.average.module.neck[0].weight.data[0] = math.nan
    with pytest.raises(InputError, match=r"weights of .* not finite: neck\.0\.weight"):
        trainer.run(silent)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_model_that_is_not_finite_is_not_loaded(tmp_path: Path, tiny_model_file: Path) -> None:
    state, path = load_file(tiny_model_file), tmp_path / "model.safetensors"
    with safe_open(tiny_model_file, "pt") as file:
        metadata = file.metadata()
    save_file(state, path, metadata)
    load_model(path)
    state["refine.post2.bias"][0] = math.inf
    save_file(state, path, metadata)
    with pytest.raises(
        InputError, match=r"weights of model .* are not finite: refine\.post2\.bias"
    ):
        load_model(path)


class TestBadData:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Trainer, "_step", lambda *_: {"loss": 1.0})

    def spoilt(self, source: Source, tmp_path: Path, which: slice) -> Source:
        """The frames of some tracks cut short."""
        tracks = list(source[0].tracks)
        for number, track in list(enumerate(tracks))[which]:
            frames = []
            for frame in track.frames:
                path = tmp_path / f"{track.name}-{frame.image.name}"
                path.write_bytes(frame.image.read_bytes()[:2000])
                frames.append(replace(frame, image=path))
            tracks[number] = replace(track, frames=tuple(frames))
        return replace(source[0], tracks=tuple(tracks)), source[1]

    def test_is_named_and_counted(
        self,
        tiny_profile: MakeProfile,
        source: Source,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        bad = self.spoilt(source, tmp_path, slice(0, 1))
        trainer = Trainer(tiny_profile("train.pairs=12"), [bad], tmp_path / "run")
        trainer.run(silent)
        lines = [
            line
            for line in capsys.readouterr().out.splitlines()
            if "replaced by another pair" in line
        ]
        assert 0 < len(lines) <= 10
        assert all("cut short" in line for line in lines)
        assert f'"replaced_files": {len(lines)}' in (tmp_path / "run" / "summary.json").read_text()

    def test_objects_too_small_are_counted(
        self, tiny_profile: MakeProfile, source: Source, tmp_path: Path
    ) -> None:
        speck, *others = source[0].tracks
        speck = replace(
            speck,
            frames=tuple(
                replace(frame, box_frame_xyxy=(9.0, 9.0, 11.0, 30.0)) for frame in speck.frames
            ),
        )
        trainer = Trainer(
            tiny_profile("train.pairs=12"),
            [(replace(source[0], tracks=(speck, *others)), source[1])],
            tmp_path,
        )
        trainer.run(silent)
        assert (
            json.loads((tmp_path / "summary.json").read_text())["redrawn_pairs"]
            == trainer.state.redrawn
            > 0
        )

    def test_too_much_of_it_stops_the_run(
        self, tiny_profile: MakeProfile, source: Source, tmp_path: Path
    ) -> None:
        bad = self.spoilt(source, tmp_path, slice(0, 2))
        with pytest.raises(
            InputError,
            match=r"11 of \d+ pairs met a file that cannot be used, the last: image .* cut short",
        ):
            Trainer(
                tiny_profile("train.pairs=400", "train.batch_size=1"), [bad], tmp_path / "run"
            ).run(silent)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_nothing_else_stops_it_in_one_line(
        self, tiny_profile: MakeProfile, source: Source, tmp_path: Path, workers: int
    ) -> None:
        bad = self.spoilt(source, tmp_path, slice(None))
        with pytest.raises(
            InputError, match=r"^no usable training pair in 20 draws .* cut short"
        ) as caught:
            Trainer(tiny_profile(f"data.workers={workers}"), [bad], tmp_path / "run").run(silent)
        assert "\n" not in str(caught.value)

    def test_a_loss_that_is_not_finite_is_skipped_and_then_stops_the_run(
        self,
        tiny_profile: MakeProfile,
        source: Source,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        losses = iter([1.0, math.nan, math.inf, 1.0, *[math.nan] * 5])
        monkeypatch.setattr(Trainer, "_step", lambda *_: {"loss": next(losses)})
        trainer = Trainer(tiny_profile("train.pairs=40"), [source], tmp_path / "run")
        with pytest.raises(
            InputError, match=r"not finite 5 steps in a row at step 8; lower train\.lr"
        ):
            trainer.run(silent)
        assert trainer.state.skipped == 7
        assert not (
            tmp_path / "run" / CHECKPOINT
        ).exists()  # of a state that is not sound there is none
        assert np.isfinite(pd.read_csv(tmp_path / "run" / "log.csv")["loss"].dropna()).all()


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(
    tiny_profile: MakeProfile, source: Source, tmp_path: Path, part: str
) -> None:
    profile = tiny_profile()
    trainer = Trainer(profile, [source], tmp_path)
    stage = first_stage(profile)
    optimiser = build_optimiser(parameter_groups(trainer.model, profile.train, True), profile.train)
    batch = collate([PairDataset([source], profile, stage, 1)[0]])
    set_trainable(trainer.model, optimiser.param_groups, profile.train, train_backbone=True)
    bias = trainer.model.refine.post2.bias
    if part == "loss":
        bias.data.fill_(math.inf)
    else:
        bias.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[no-untyped-call]
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    assert not math.isfinite(trainer._step([batch], optimiser, 1e-3, stage)["loss"])
    assert all(torch.equal(before[key], value) for key, value in trainer.model.state_dict().items())


def test_a_run_goes_on_in_the_precision_it_began_with(
    tiny_profile: MakeProfile, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tiny_profile("train.precision=auto")
    for began, now in [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]:
        folder = tmp_path / str(began)
        folder.mkdir()
        monkeypatch.setattr(loop, "precision_of", lambda *_, began=began: began)
        first = Trainer(profile, [source], folder)
        first.state.step = first.steps - 1
        first._save(None)
        monkeypatch.setattr(loop, "precision_of", lambda *_, now=now: now)
        lines: list[str] = []
        Trainer(profile, [source], folder).run(lines.append)
        assert f"{str(began).removeprefix('torch.')} as it began on cpu" in lines[0]
        assert f"torch.{json.loads((folder / 'summary.json').read_text())['precision']}" == str(
            began
        )


def test_a_single_window_can_be_taught(tiny_profile: MakeProfile, source: Source) -> None:
    """SiamMask's first head has batch-norm on single values, which torch refuses for one window."""
    profile = tiny_profile(variant="siammask")
    model = build_model(profile.model).train()
    batch = collate([PairDataset([source], profile, first_stage(profile), 1)[0]])
    alone = replace(
        batch,
        cells=Cells(*(index[:1] for index in batch.cells)),
        sample_labels=batch.sample_labels[:1],
    )
    assert model(alone.template, alone.search, alone.cells, "base").mask_logits.shape == (1, 63, 63)


def test_gradients_are_clipped_group_by_group(
    tiny_profile: MakeProfile, source: Source, tmp_path: Path
) -> None:
    profile = tiny_profile(
        "train.optimiser=sgd",
        "train.momentum=0",
        "train.weight_decay=0",
        "train.clip=0.5",
        "data.negative_pairs=0",
    )
    trainer = Trainer(profile, [source], tmp_path)
    stage = first_stage(profile)
    groups = parameter_groups(trainer.model, profile.train, True)
    optimiser = build_optimiser(groups, profile.train)
    set_trainable(trainer.model, optimiser.param_groups, profile.train, train_backbone=True)
    before = {
        group["name"]: [parameter.clone() for parameter in group["params"]] for group in groups
    }
    values = trainer._step(
        [collate([PairDataset([source], profile, stage, 1)[0]])], optimiser, 1.0, stage
    )
    for group in groups:
        moved = (
            torch.stack(
                [
                    (a - b).norm()
                    for a, b in zip(before[group["name"]], group["params"], strict=True)
                ]
            )
            .norm()
            .item()
        )
        assert moved == pytest.approx(
            group["scale"] * min(0.5, values[f"grad_{group['name']}"]), rel=1e-3, abs=1e-6
        ), group["name"]
    assert values["grad_mask"] > 0.5
    assert Counter(group["scale"] for group in groups) == {1.0: 4}


def test_a_run_leaves_its_record(
    tiny_profile: MakeProfile, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_step", lambda *_: {"loss": 1.0})
    profile = tiny_profile("train.pairs=6")
    path = Trainer(profile, [source], tmp_path / "run").run(silent)
    model, kept = load_model(path)
    assert kept == profile
    assert isinstance(model, E3SN)
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["step"].tolist() == [2, 3]
    assert log["pairs"].tolist() == [4, 6]
    assert log[["w2", "w3", "w4"]].to_numpy() == pytest.approx(1 / 3)
    assert log["seconds"].is_monotonic_increasing


def test_ctrl_c_ends_the_step_saves_and_says_how_to_go_on(
    tiny_profile: MakeProfile, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile, before = (
        tiny_profile("train.pairs=12", "train.average=0.5"),
        signal.getsignal(signal.SIGINT),
    )
    whole = Trainer(profile, [source], tmp_path / "whole").run(silent)
    draw = PairDataset.__getitem__

    def pressed(dataset: PairDataset, index: int) -> Pair:
        if dataset.first + index == 5:
            signal.raise_signal(signal.SIGINT)
        return draw(dataset, index)

    with monkeypatch.context() as patched:
        patched.setattr(PairDataset, "__getitem__", pressed)
        with pytest.raises(
            KeyboardInterrupt,
            match="stopped after step 3 of 6; the same command goes on from there",
        ):
            Trainer(profile, [source], tmp_path / "parts").run(silent)
    lines: list[str] = []
    parts = Trainer(profile, [source], tmp_path / "parts").run(lines.append)
    assert "from step 3" in lines[0]
    first, second = load_file(whole), load_file(parts)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_average_lags_behind_the_weights(
    tiny_profile: MakeProfile, source: Source, tmp_path: Path
) -> None:
    """Each step's weights come in with the share 1 - d, where d is (1 + n) / (10 + n) for n weights so far, and 0.25 at most."""
    seen: list[Tensor] = []
    trainer = Trainer(tiny_profile("train.pairs=8", "train.average=0.25"), [source], tmp_path)
    assert trainer.average is not None
    update = trainer.average.update_parameters

    def noted(model: E3SN) -> None:
        seen.append(model.neck[0].weight.detach().clone())
        update(model)

    trainer.average.update_parameters = noted  # type: ignore[method-assign]
    final, _ = load_model(trainer.run(silent))
    assert len(seen) == 4
    assert not torch.equal(seen[0], seen[3])
    expected = seen[0]
    for decay, weight in zip((2 / 11, 0.25, 0.25), seen[1:], strict=True):
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(
        final.neck[0].weight.detach(), expected, rtol=1e-3, atol=1e-6
    )  # saved in half precision


def test_the_average_holds_nothing_of_the_untrained_start() -> None:
    """A value that jumps from 0 to 1 and stays there for 60 steps is averaged to 1, and not to 1 - 0.998^60."""
    value = nn.Linear(1, 1)
    average = AveragedModel(value, multi_avg_fn=warmed_average(0.998))
    for number in range(61):
        nn.init.constant_(value.weight, float(number > 0))
        average.update_parameters(value)
    assert float(average.module.weight.detach()) == pytest.approx(1, abs=1e-6)


def test_the_average_starts_anew_with_each_stage(
    tiny_profile: MakeProfile, source: Source, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_profile("train.average=0.5", variant="siammask"), [source], tmp_path)
    trainer.run(silent)
    assert trainer.average is not None
    assert len(trainer.stages) == 2
    assert int(trainer.average.n_averaged) == trainer.stages[-1].steps


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(
    tiny_profile: MakeProfile, source: Source
) -> None:
    """With batch-norm at rest nothing but the losses' denominators could differ."""
    profile = tiny_profile("data.negative_pairs=0.4")
    stage = first_stage(profile)
    pairs = PairDataset([source], profile, stage, 6)
    batches = [
        collate([pairs[i] for i in part]) for part in ((0, 1, 2, 3, 4, 5), (0, 1), (2, 3), (4, 5))
    ]
    whole, *parts = batches
    torch.manual_seed(0)
    model = build_model(profile.model).eval()
    gradients, values = [], []
    counts = Counts(*count_targets(whole.anchor_labels, whole.sample_labels))
    assert counts.masks > 3
    for group in ([whole], parts):
        model.zero_grad()
        results = [
            compute_losses(model, part, profile, stage, counts if part is not whole else None)
            for part in group
        ]
        for loss, _ in results:
            loss.backward()  # type: ignore[no-untyped-call]
        values.append(
            {key: sum(float(found[key].detach()) for _, found in results) for key in results[0][1]}
        )
        gradients.append(
            [
                parameter.grad.clone()
                for parameter in model.parameters()
                if parameter.grad is not None
            ]
        )
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def test_who_watches_sees_each_row_of_the_log(
    tiny_profile: MakeProfile, source: Source, tmp_path: Path
) -> None:
    seen: list[pd.DataFrame] = []
    Trainer(tiny_profile("train.pairs=8"), [source], tmp_path).run(silent, watch=seen.append)
    assert [list(log["step"]) for log in seen] == [[2], [2, 4]]
    pd.testing.assert_frame_equal(
        seen[-1], pd.read_csv(tmp_path / "log.csv"), check_dtype=False, atol=1e-6
    )


def test_tensorboard_that_is_not_there_is_said(
    tiny_profile: MakeProfile, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        InputError, match=r"train\.tensorboard needs TensorBoard; pip install tensorboard"
    ):
        Trainer(tiny_profile("train.tensorboard=true"), [source], tmp_path).run(silent)
