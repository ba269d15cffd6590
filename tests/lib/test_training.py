"""The training loop: schedules as published, what is frozen stays frozen, a killed run goes on as if it had not been."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import multiprocessing
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from e3sn_lib.config import Profile, StageConfig, TrainConfig, TrainSetConfig
from e3sn_lib.data.davis import davis_sequences, davis_tracks
from e3sn_lib.data.pairs import Batch, Pair, PairDataset, collate
from e3sn_lib.data.types import TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.losses import (
    Counts,
    classification_loss,
    compute_losses,
    count_targets,
    mask_iou,
    mask_loss,
    mask_windows,
    regression_loss,
)
from e3sn_lib.model.device import precision_of
from e3sn_lib.model.network import E3SN, Output, build_model
from e3sn_lib.model.weights import load_model, pairs_seen
from e3sn_lib.model.windows import Cells
from e3sn_lib.profiles.identity import config_hash, training_settings
from e3sn_lib.profiles.loading import load_profile
from e3sn_lib.tracking.tracker import Tracker
from e3sn_lib.training import loop
from e3sn_lib.training.loop import Trainer
from e3sn_lib.training.schedule import (
    StagePlan,
    build_optimiser,
    learning_rate,
    parameter_groups,
    plan,
    set_trainable,
    warmed_average,
)
from e3sn_lib.training.state import CHECKPOINT, LOCK
from e3sn_study.evaluation.benchmark import evaluate_tracker

MakeProfile = Callable[..., Profile]
MakeTrainer = Callable[..., Trainer]
Source = tuple[TrackSet, TrainSetConfig]


@pytest.fixture
def source(data_root: Path) -> Source:
    config = TrainSetConfig("synthetic", ("synthetic",), frame_range=3, min_area=0)
    return davis_tracks(data_root / "synthetic", config), config


@pytest.fixture
def trainer(tiny_profile: MakeProfile, source: Source, tmp_path: Path) -> MakeTrainer:
    """Make a trainer of the least profile, with further settings, in a folder of `tmp_path`."""

    def make(*settings: str, folder: str = "run", source: Source = source, **named: Any) -> Trainer:
        return Trainer(tiny_profile(*settings, **named), [source], tmp_path / folder)

    return make


def first_stage(profile: Profile) -> StageConfig:
    return next(iter(profile.stages.values()))


def first_batch(profile: Profile, source: Source, count: int) -> Batch:
    pairs = PairDataset([source], profile, first_stage(profile))
    return collate([pairs[number] for number in range(count)])


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
        last_steps = [step - 1 for step in [*steps[1:], planned.steps]]
        for at in (steps, last_steps):
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
        stages = plan(load_profile("smoke", "siammask", ["train.pairs=800", "train.batch_size=8"]))
        found = [(each.name, each.first_step, each.steps) for each in stages]
        assert found == [("base", 0, 75), ("sharp", 75, 25)]
        assert [each.steps for each in plan(load_profile("paper"))] == [12_000_000 // 64]


def layers(names: Iterable[str]) -> set[str]:
    """The modules of the network, and those of its backbone, to which parameters belong."""
    parts = (name.split(".") for name in names)
    return {".".join(part[: 2 if part[0] == "backbone" else 1]) for part in parts}


class TestParameterGroups:
    def named(
        self, profile: Profile, location: bool = True
    ) -> tuple[E3SN, dict[str, set[str]], dict[str, dict[str, Any]]]:
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
        scales = {name: group["scale"] for name, group in groups.items()}
        assert scales == {"backbone": 0.1, "location": 1.0, "mask": 0.1, "fusion": 0.1}
        assert names["fusion"] == {"mask.fusion.scalars"}
        assert layers(names["location"]) == {"neck", "rpn"}
        assert layers(names["mask"]) == {"mask", "refine"}
        assert layers(names["backbone"]) == {"backbone.layer2", "backbone.layer3"}
        left = {name for name, _ in model.named_parameters()} - set().union(*names.values())
        assert layers(left) == {"backbone.conv1", "backbone.bn1", "backbone.layer1"}

    def test_without_the_location_the_rest_stays_out(self) -> None:
        _, names, _ = self.named(load_profile("paper", "siammask"), location=False)
        assert layers(names["mask"]) == {"mask", "refine", "base_head"}
        assert set(names) == {"mask"}  # fixed fusion has no weights

    def test_shortcuts_may_be_left_alone(self) -> None:
        profile = load_profile("paper", overrides=["train.train_shortcuts=false"])
        _, names, _ = self.named(profile)
        shortcuts = {f"backbone.layer{n}.0.downsample.0.weight" for n in (2, 3)}
        assert not names["backbone"] & shortcuts

    @pytest.mark.parametrize(
        ("kind", "of"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)]
    )
    def test_the_optimiser_decays_all_but_the_fusion(
        self, tiny_profile: MakeProfile, kind: str, of: type
    ) -> None:
        settings = (f"train.optimiser={kind}", "train.weight_decay=0.25", "train.momentum=0.7")
        profile = tiny_profile(*settings)
        groups = parameter_groups(build_model(profile.model), profile.train, True)
        optimiser = build_optimiser(groups, profile.train)
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
    PAPER = ("train.train_layers=[layer2, layer3]", "train.weights=torchvision")
    HEADS = frozenset({"neck", "rpn", "mask", "refine"})
    DEEP = frozenset({"backbone.layer2", "backbone.layer3"})
    REST = frozenset({"backbone.conv1", "backbone.bn1", "backbone.layer1"})

    @pytest.mark.parametrize(
        ("settings", "location", "backbone", "learning"),
        [
            pytest.param(PAPER, True, False, HEADS, id="the paper's first half"),
            pytest.param(PAPER, True, True, HEADS | DEEP, id="the paper's second half"),
            pytest.param((), False, True, {"mask", "refine"}, id="SiamMask's second stage"),
            pytest.param((), True, True, HEADS | DEEP | REST, id="from nothing"),
        ],
    )
    def test_which_parts_have_gradients_and_whose_statistics_change(
        self, tiny_profile: MakeProfile, source: Source, settings, location, backbone, learning
    ) -> None:
        torch.manual_seed(0)
        profile = tiny_profile("data.negative_pairs=0", *settings)
        model = build_model(profile.model)
        stage = replace(first_stage(profile), train_location=location)
        groups = parameter_groups(model, profile.train, location)
        set_trainable(model, groups, profile.train, train_backbone=backbone)
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        loss, _ = compute_losses(model, first_batch(profile, source, 2), profile, stage)
        loss.backward()
        found = layers(name for name, value in model.named_parameters() if value.grad is not None)
        assert found == learning
        moved = layers(
            name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])
        )
        # the refinement has no batch-norm; statistics of the backbone change only from nothing
        assert moved == learning - {"refine", "backbone.conv1"} - (self.DEEP if settings else set())

    def test_a_shortcut_whose_outer_taps_were_skipped_is_trained_whole(
        self, tiny_profile: MakeProfile
    ) -> None:
        """ImageNet's 1x1 weights leave them 0."""
        profile = tiny_profile(*self.PAPER)
        model = build_model(profile.model)
        shortcuts = model.backbone.shortcuts
        for shortcut in shortcuts:
            shortcut.weight.data = F.pad(shortcut.weight.data[:, :, 1:2, 1:2], (1, 1, 1, 1))
        groups = parameter_groups(model, profile.train, True)
        for begun in (False, True):
            set_trainable(model, groups, profile.train, train_backbone=begun)
            assert [shortcut.centre_only for shortcut in shortcuts] == [not begun] * 2
        model.backbone(torch.rand(1, 3, 127, 127)).p3.square().sum().backward()
        assert all(shortcut.weight.grad[:, :, 0, 0].ne(0).any() for shortcut in shortcuts)

    @pytest.mark.usefixtures("quick")
    def test_the_backbone_s_time_is_a_share_of_each_stage(
        self, trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = trainer("train.pairs=16", "train.unfreeze_at=0.5", variant="siammask")
        assert [stage.steps for stage in made.stages] == [6, 2]
        told: list[tuple[int, bool]] = []
        monkeypatch.setattr(
            loop.schedule, "set_trainable", lambda *given: told.append((made.state.step, given[-1]))
        )
        made.run()
        assert told == [(0, False), (3, True), (6, False), (7, True)]

    def test_over_a_run(
        self, tiny_profile: MakeProfile, trainer: MakeTrainer, tmp_path: Path
    ) -> None:
        """Unfrozen at half time, the deep layers move; all before them, and all statistics of the backbone, stay bit for bit."""
        weights = imagenet(tiny_profile(), tmp_path)
        settings = (self.PAPER[0], f"train.weights={weights}", "train.unfreeze_at=0.5")
        model, profile = load_model(trainer(*settings, "train.pairs=4").run())
        start = build_model(profile.model).backbone
        start.load_state_dict(load_file(weights))
        for name, value in start.state_dict().items():
            same = torch.equal(model.backbone.state_dict()[name], value)
            still = name.startswith(("conv1", "bn1", "layer1"))
            assert same == (still or "running" in name or "num_batches" in name), name
        assert model.neck[1].num_batches_tracked == 4  # template and search of two steps


class TestLosses:
    def test_equation_3_of_undecided_outputs(
        self, tiny_profile: MakeProfile, source: Source
    ) -> None:
        profile = tiny_profile("data.negative_pairs=0")
        stage, batch = first_stage(profile), first_batch(profile, source, 2)

        def undecided(*_: object) -> Output:
            offsets = batch.offsets + 3.0  # smooth L1: 4 times 2.5
            masks = torch.zeros(len(batch.sample_labels), 127, 127)
            return Output(torch.zeros(2, 2, 5, 25, 25), offsets, masks)

        total, parts = compute_losses(undecided, batch, profile, stage)
        log2 = math.log(2)
        assert parts["cls"].item() == pytest.approx(log2)
        assert parts["mask"].item() == pytest.approx(log2)
        assert parts["loc"].item() == pytest.approx(10, rel=1e-4)
        assert total.item() == pytest.approx(log2 + 10 + 32 * log2, rel=1e-4)
        assert parts["mask_iou"] == 0
        stage = replace(stage, train_location=False)
        total, parts = compute_losses(undecided, batch, profile, stage)
        assert total.item() == pytest.approx(32 * log2)
        assert "cls" not in parts

    def test_the_settings_choose_kinds_and_weights(
        self, tiny_profile: MakeProfile, source: Source
    ) -> None:
        profile = tiny_profile(
            "loss.negatives=background", "loss.loc_beta=0.5",
            "loss.mask_weight=7", "loss.cls_weight=3", "loss.loc_weight=5",
        )  # fmt: skip
        stage, batch = first_stage(profile), first_batch(profile, source, 4)
        torch.manual_seed(0)
        cls, loc = torch.randn(4, 2, 5, 25, 25), torch.randn(4, 4, 5, 25, 25)
        masks, labels = torch.randn(len(batch.sample_labels), 127, 127), batch.sample_labels
        assert (labels < 0).any()
        windows = mask_windows(batch.mask.float(), batch.cells, 32)
        output = Output(cls, loc, masks)
        for kind in ("smooth_l1", "l1"):
            wanted = replace(profile, loss=replace(profile.loss, loc=kind))
            counts = Counts(*count_targets(batch.anchor_labels, labels, "background"))
            for given in (None, counts):
                total, parts = compute_losses(lambda *_: output, batch, wanted, stage, given)  # type: ignore[arg-type]
                expected = {
                    "mask": mask_loss(masks, windows, labels, "background"),
                    "cls": classification_loss(cls, batch.anchor_labels),
                    "loc": regression_loss(loc, batch.offsets, batch.anchor_labels, kind, 0.5),
                    "mask_iou": mask_iou(masks, windows)[labels > 0].mean(),
                }
                torch.testing.assert_close(parts, expected)
                weighted = 7 * parts["mask"] + 3 * parts["cls"] + 5 * parts["loc"]
                torch.testing.assert_close(total, weighted)

    def test_windows_of_the_second_stage_are_those_of_its_crop(
        self, tiny_profile: MakeProfile, source: Source
    ) -> None:
        """Logits that are right in windows without a margin cost nothing."""
        profile = tiny_profile("data.negative_pairs=0", variant="siammask")
        stage = profile.stages["sharp"]
        pairs = PairDataset([source], profile, stage)
        batch = collate([pairs[number] for number in range(4)])
        assert batch.search.shape[-1] == 143
        masks = 50 * mask_windows(batch.mask.float(), batch.cells, 0)
        output = Output(torch.zeros(1), torch.zeros(1), masks)
        _, parts = compute_losses(lambda *_: output, batch, profile, stage)  # type: ignore[arg-type]
        assert parts["mask"].item() < 1e-6
        assert parts["mask_iou"] == 1

    @pytest.mark.parametrize(
        ("stage", "taught", "left"),
        [("base", "base_head", "refine"), ("sharp", "refine", "base_head")],
    )
    def test_each_stage_of_siammask_teaches_its_own_mask_head(
        self, tiny_profile: MakeProfile, source: Source, stage: str, taught: str, left: str
    ) -> None:
        profile = tiny_profile("data.negative_pairs=0", variant="siammask")
        config, model = profile.stages[stage], build_model(profile.model)
        pairs = PairDataset([source], profile, config)
        loss, _ = compute_losses(model, collate([pairs[0], pairs[1]]), profile, config)
        loss.backward()
        assert all(value.grad is not None for value in getattr(model, taught).parameters())
        assert all(value.grad is None for value in getattr(model, left).parameters())

    def test_mask_iou_of_a_step_without_masks_is_unknown(
        self, trainer: MakeTrainer, source: Source
    ) -> None:
        """NaN, which the means of the log leave out; 0 would count as a wrong mask."""
        made = trainer("data.negative_pairs=1")
        stage = first_stage(made.profile)
        pairs = PairDataset([source], made.profile, stage)
        negative = islice((pair for pair in pairs if pair.negative), 2)
        values = made._backward([collate([pair]) for pair in negative], stage)
        assert math.isnan(values["mask_iou"])
        assert values["mask"] == values["loc"] == 0
        assert values["loss"] == pytest.approx(values["cls"])


def test_precision_is_what_is_asked_for() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(InputError, match="no precision 'int4'; choose from auto, fp32"):
        precision_of("int4", cpu)
    assert precision_of("fp32", cpu) == torch.float32
    assert precision_of("bf16", cpu) == torch.bfloat16
    assert precision_of("auto", torch.device("meta")) == torch.float32


def test_one_clip_can_be_learnt_by_heart(
    tiny_profile: MakeProfile, source: Source, data_root: Path, tmp_path: Path
) -> None:
    """The loss falls, the masks of the crops become right, and the tracker finds its object in the whole frames."""
    (track,) = (track for track in source[0].tracks if track.name == "fish-1")
    profile = tiny_profile(
        "train.pairs=56", "train.lr=[4.0e-3, 1.0e-3]", "train.log_every=7", "data.negative_pairs=0", "augment.colour=0",
        "augment.blur=0", "augment.grey=0", "augment.flip=0", "augment.search_shift=16",
    )  # fmt: skip
    clip = replace(source[0], tracks=(track,)), source[1]
    trainer = Trainer(profile, [clip], tmp_path / "run")
    sequence = davis_sequences(data_root / "synthetic", 2016, "train", ["fish-1"])

    def tracked(name: str) -> float:
        tracker, folder = Tracker(trainer.model), tmp_path / name
        scores, _ = evaluate_tracker(tracker, sequence, folder, extras=False, show=lambda _: None)
        return float(scores["J-Mean"].mean())

    untrained = tracked("before")
    trainer.run()
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    first, last = log.iloc[0], log.iloc[-1]
    assert last["loss"] < first["loss"] / 4
    assert (last[["cls", "loc", "mask"]] < first[["cls", "loc", "mask"]]).all()
    assert last["mask_iou"] > max(0.75, first["mask_iou"] + 0.2)
    # 28 steps hardly settle the statistics that tracking relies on
    assert tracked("after") > untrained + 0.1


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
    def test_a_run_starts_from_a_whole_model_and_notes_which(
        self, trainer: MakeTrainer, tiny_model_file: Path, tiny_model: E3SN
    ) -> None:
        made = trainer(f"train.init_weights={tiny_model_file}")
        state = made.model.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in tiny_model.state_dict().items())
        digest = hashlib.sha256(tiny_model_file.read_bytes()).hexdigest()
        assert made.profile.train.init_sha256 == digest[:12]

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

    @pytest.mark.parametrize(
        ("file", "setting", "words"),
        [
            ("{model}", "model.channels=32", "was trained with model.channels=.*; set the same"),
            ("{model}", "model.fusion=raw", "was trained with model.fusion=softmax; set the same"),
            ("{model}", "train.init_sha256=abc", "is another model: its SHA-256"),
            ("''", "train.init_sha256=abc", "is set, but not train.init_weights; set both"),
            ("none", "train.momentum=0.9", "cannot read .*give the file of a trained model"),
        ],
    )
    def test_a_model_that_does_not_fit_is_refused(
        self, trainer: MakeTrainer, tiny_model_file: Path, file: str, setting: str, words: str
    ) -> None:
        file = file.format(model=tiny_model_file)
        with pytest.raises(InputError, match=words):
            trainer(f"train.init_weights={file}", setting)

    def test_the_pairs_of_all_legs_are_counted_and_new(
        self, trainer: MakeTrainer, tiny_profile: MakeProfile, source: Source, monkeypatch
    ) -> None:
        seen: list[torch.Tensor] = []

        def look(self: Trainer, batches: list[Batch], *_: Any) -> dict[str, float]:
            seen.append(batches[0].search)
            return {"loss": 1.0}

        monkeypatch.setattr(Trainer, "_step", look)
        first = trainer("train.pairs=12", folder="first").run()
        second = trainer("train.pairs=8", f"train.init_weights={first}", folder="second").run()
        assert [pairs_seen(path) for path in (first, second)] == [12, 20]
        summary = json.loads((second.parent / "summary.json").read_text())
        assert (summary["pairs_before"], summary["pairs"]) == (12, 8)
        assert torch.equal(torch.cat(seen), first_batch(tiny_profile(), source, 20).search)

    @pytest.mark.usefixtures("quick")
    def test_a_run_whose_folder_is_gone_goes_on_from_its_backup(
        self, tiny_profile: MakeProfile, trainer: MakeTrainer, tmp_path: Path, monkeypatch, capsys
    ) -> None:
        settings = ("train.pairs=12", "train.checkpoint_every=2")
        backup = f"train.backup={tmp_path / 'elsewhere'}"
        with_backup = training_settings(tiny_profile(*settings, backup))
        assert with_backup == training_settings(tiny_profile(*settings))
        with monkeypatch.context() as broken:
            interrupt_at(10, broken)
            with pytest.raises(InterruptionError):
                trainer(*settings, backup).run()
        copies = [tmp_path / folder / CHECKPOINT for folder in ("run", "elsewhere/run")]
        assert copies[0].read_bytes() == copies[1].read_bytes()
        shutil.rmtree(tmp_path / "run")
        capsys.readouterr()
        began = json.loads((tmp_path / "elsewhere" / "run" / "env.json").read_text())
        monkeypatch.setattr(loop, "environment", lambda: began | {"commit": "a later one"})
        trainer(*settings, backup).run()
        assert "from step 4" in capsys.readouterr().out
        kept = json.loads((tmp_path / "run" / "env.json").read_text())
        assert kept == began | {"resumed": [{"commit": "a later one"}]}

    @pytest.mark.usefixtures("quick")
    def test_other_processes_wait_until_the_first_has_copied_the_backup(
        self, trainer: MakeTrainer, tmp_path: Path, monkeypatch
    ) -> None:
        settings = ("train.pairs=4", f"train.backup={tmp_path / 'elsewhere'}")
        first = trainer(*settings)
        first.run()
        shutil.rmtree(tmp_path / "run")

        @contextmanager
        def first_alone() -> Iterator[None]:
            shutil.copytree(tmp_path / "elsewhere" / "run", tmp_path / "run")
            yield

        other = trainer(*settings)
        with monkeypatch.context() as second_process:
            second_process.setattr(loop.processes, "is_first", lambda: False)
            second_process.setattr(loop.processes, "first_alone", first_alone)
            other._resume()
        assert other.state.step == first.steps


def test_a_stage_without_data_is_refused_before_the_first_one_is_trained(
    trainer: MakeTrainer,
) -> None:
    with pytest.raises(InputError, match="no training data: every set is empty or has weight 0"):
        trainer("stages.sharp.sets.synthetic=0", variant="siammask")


class TestResume:
    TWO_STAGES = ("train.optimiser=sgd", "stages.base.share=0.5", "stages.sharp.share=0.5",
                  "train.average=0.5")  # fmt: skip
    FROZEN = ("train.optimiser=adamw", "train.unfreeze_at=0.5")

    @pytest.mark.parametrize(
        ("variant", "settings", "killed", "resumed"),
        [("e3sn", FROZEN, 5, 4), ("siammask", TWO_STAGES, 5, 4), ("siammask", TWO_STAGES, 3, 3)],
    )
    def test_a_killed_run_ends_like_an_undisturbed_one(
        self, tiny_profile: MakeProfile, trainer: MakeTrainer, tmp_path: Path, monkeypatch, capsys,
        variant: str, settings: tuple[str, ...], killed: int, resumed: int,
    ) -> None:  # fmt: skip
        weights = (
            f"train.weights={imagenet(tiny_profile(), tmp_path) if variant == 'e3sn' else 'none'}"
        )
        settings += ("train.pairs=12", "train.checkpoint_every=2", weights)
        settings += ("train.train_layers=[layer3]",)  # its statistics change in all layers
        whole = trainer(*settings, folder="whole", variant=variant).run()
        with monkeypatch.context() as broken:
            interrupt_at(2 * killed, broken)
            with pytest.raises(InterruptionError):
                trainer(*settings, folder="parts", variant=variant).run()
        assert files(tmp_path / "parts") == {"config.yaml", "env.json", "log.csv", CHECKPOINT}
        capsys.readouterr()
        parts = trainer(*settings, folder="parts", variant=variant).run()
        assert f"from step {resumed}" in capsys.readouterr().out

        first, second = load_file(whole), load_file(parts)
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
        unlike = ["pairs_per_second", "data_share", "peak_memory_mb", "seconds"]
        logs = [
            pd.read_csv(path.parent / "log.csv").drop(columns=unlike) for path in (whole, parts)
        ]
        pd.testing.assert_frame_equal(*logs, check_exact=True)
        assert files(tmp_path / "whole") == files(tmp_path / "parts") == {
            "config.yaml", "env.json", "log.csv", CHECKPOINT, "model.safetensors", "summary.json"
        }  # fmt: skip

    def test_a_later_process_adds_what_differs_to_the_record(
        self, trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = ("train.pairs=6", "train.checkpoint_every=1")
        with monkeypatch.context() as broken:
            interrupt_at(4, broken)
            with pytest.raises(InterruptionError):
                trainer(*settings).run()
        path = tmp_path / "run" / "env.json"
        began = json.loads(path.read_text())
        later = began | {"commit": "another", "command": "e3sn train /a/folder/of/this/machine"}
        monkeypatch.setattr(loop, "environment", lambda: later)
        trainer(*settings).run()
        assert json.loads(path.read_text()) == began | {"resumed": [{"commit": "another"}]}

    @pytest.mark.usefixtures("quick")
    def test_of_other_settings_or_another_variant_is_refused(
        self, trainer: MakeTrainer, tmp_path: Path
    ) -> None:
        trainer("train.pairs=4").run()
        paths = [tmp_path / "run" / name for name in (CHECKPOINT, "config.yaml")]
        content = [path.read_bytes() for path in paths]
        for other in (
            trainer("train.pairs=4", "train.momentum=0.5"),
            trainer("train.pairs=4", seed=1),
            trainer("train.pairs=4", variant="e3sn-s"),
        ):
            words = r"checkpoint\.pt belongs to a run with other settings"
            with pytest.raises(InputError, match=words) as caught:
                other.run()
            assert "\n" not in str(caught.value)
        assert [path.read_bytes() for path in paths] == content
        trainer("train.pairs=4", "data.workers=1", "train.log_every=1").run()

    @pytest.mark.parametrize("kind", ["text", "empty", "cut", "other"])
    @pytest.mark.usefixtures("quick")
    def test_of_another_kind_is_refused(
        self, trainer: MakeTrainer, tmp_path: Path, kind: str
    ) -> None:
        path = tmp_path / "run" / CHECKPOINT
        path.parent.mkdir()
        torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}, "epoch": 3}, path)
        whole = path.read_bytes()
        contents = {"text": b"not a checkpoint\n", "empty": b"", "cut": whole[: len(whole) // 2]}
        path.write_bytes(contents.get(kind, whole))
        words = r"checkpoint\.pt is damaged or no checkpoint"
        with pytest.raises(InputError, match=words) as caught:
            trainer("train.pairs=4").run()
        assert "\n" not in str(caught.value)
        assert files(tmp_path / "run") == {CHECKPOINT}

    @pytest.mark.parametrize(
        ("entry", "changed"),
        [
            ("profile", {"train": {"old_setting": 1}}),
            ("state", {"step": 1, "new_count": 0}),
            ("state", {"step": 10**9}),
            ("precision", None),
            ("model", {}),
            ("optimiser", {}),
        ],
    )
    @pytest.mark.usefixtures("quick")
    def test_of_another_version_is_refused(
        self, trainer: MakeTrainer, tmp_path: Path, entry: str, changed: Any
    ) -> None:
        trainer("train.pairs=4").run()
        path = tmp_path / "run" / CHECKPOINT
        content = torch.load(path, weights_only=True)
        content["state"]["step"] = 1
        torch.save(content | {entry: changed}, path)
        with pytest.raises(InputError, match=r"checkpoint\.pt is damaged .*; delete it"):
            trainer("train.pairs=4").run()

    @pytest.mark.usefixtures("quick")
    def test_an_interrupted_write_keeps_the_older_checkpoint(
        self, trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save, saved = torch.save, []

        def fail_at_third(content: object, path: Path) -> None:
            if len(saved) == 2:
                path.write_bytes(b"half")
                raise KeyboardInterrupt
            saved.append(path)
            save(content, path)

        monkeypatch.setattr(torch, "save", fail_at_third)
        with pytest.raises(KeyboardInterrupt):
            trainer("train.pairs=8", "train.checkpoint_every=1").run()
        folder = tmp_path / "run"
        assert files(folder) == {CHECKPOINT, "config.yaml", "env.json", "log.csv"}
        assert torch.load(folder / CHECKPOINT, weights_only=True)["state"]["step"] == 2


@pytest.mark.usefixtures("quick")
def test_killed_before_its_model_is_written_a_run_is_finished_by_the_next(
    trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds the model takes the run for finished, so all else is there before it."""

    def killed(*_: object, **__: object) -> None:
        raise InterruptionError

    with monkeypatch.context() as broken:
        broken.setattr(loop.weights, "save_model", killed)
        with pytest.raises(InterruptionError):
            trainer().run()
    assert (tmp_path / "run" / "summary.json").is_file()
    monkeypatch.setattr(loop.device, "peak_memory_bytes", lambda: 1)  # the second needs little
    load_model(trainer().run())
    peaks = pd.read_csv(tmp_path / "run" / "log.csv")["peak_memory_mb"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["peak_memory_mb"] == round(peaks.max()) > 1


@pytest.mark.usefixtures("quick")
def test_an_average_that_is_not_finite_is_refused(trainer: MakeTrainer, tmp_path: Path) -> None:
    averaged = trainer("train.average=0.5")
    assert averaged.average is not None
    averaged.average.module.neck[0].weight.data[0] = math.nan
    with pytest.raises(InputError, match=r"weights of .* not finite: neck\.0\.weight"):
        averaged.run()
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_loaded_model_is_in_evaluation_mode(tiny_model_file: Path) -> None:
    model, _ = load_model(tiny_model_file)
    assert not any(module.training for module in model.modules())


def test_a_model_that_is_not_finite_is_not_loaded(tmp_path: Path, tiny_model_file: Path) -> None:
    state, path = load_file(tiny_model_file), tmp_path / "model.safetensors"
    with safe_open(tiny_model_file, "pt") as file:
        metadata = file.metadata()
    save_file(state, path, metadata)
    load_model(path)
    state["refine.post2.bias"][0] = math.inf
    save_file(state, path, metadata)
    words = r"weights of model .* are not finite: refine\.post2\.bias"
    with pytest.raises(InputError, match=words):
        load_model(path)


@pytest.mark.usefixtures("quick")
class TestBadData:
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
        self, trainer: MakeTrainer, source: Source, tmp_path: Path, capsys
    ) -> None:
        trainer("train.pairs=12", source=self.spoilt(source, tmp_path, slice(0, 1))).run()
        out = capsys.readouterr().out.splitlines()
        lines = [line for line in out if "replaced by another pair" in line]
        assert 0 < len(lines) <= 10
        assert all("cut short" in line for line in lines)
        assert f'"replaced_files": {len(lines)}' in (tmp_path / "run" / "summary.json").read_text()

    def test_objects_too_small_are_counted(
        self, trainer: MakeTrainer, source: Source, tmp_path: Path
    ) -> None:
        speck, *others = source[0].tracks
        small = (replace(frame, box_frame_xyxy=(9.0, 9.0, 11.0, 30.0)) for frame in speck.frames)
        tracks = (replace(speck, frames=tuple(small)), *others)
        bad = trainer("train.pairs=12", source=(replace(source[0], tracks=tracks), source[1]))
        bad.run()
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["redrawn_pairs"] == bad.state.redrawn > 0

    def test_too_much_of_it_stops_the_run(
        self, trainer: MakeTrainer, source: Source, tmp_path: Path
    ) -> None:
        bad = self.spoilt(source, tmp_path, slice(0, 2))
        words = (
            r"11 draws in \d+ pairs met a file that cannot be used, the last: image .* cut short"
        )
        with pytest.raises(InputError, match=words):
            trainer("train.pairs=400", "train.batch_size=1", source=bad).run()

    @pytest.mark.parametrize("workers", [0, 1])
    def test_nothing_else_stops_it_in_one_line(
        self, trainer: MakeTrainer, source: Source, tmp_path: Path, workers: int
    ) -> None:
        bad = self.spoilt(source, tmp_path, slice(None))
        words = r"^no usable training pair in 200 draws .* cut short.*\Z"
        with pytest.raises(InputError, match=words):
            trainer(f"data.workers={workers}", source=bad).run()
        assert multiprocessing.active_children() == []

    def test_a_loss_that_is_not_finite_is_skipped_and_then_stops_the_run(
        self, trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        losses = iter([1.0, math.nan, math.inf, 1.0, *[math.nan] * 5])
        monkeypatch.setattr(Trainer, "_step", lambda *_: {"loss": next(losses)})
        failing = trainer("train.pairs=40")
        words = r"not finite 5 steps in a row at step 8; lower train\.lr"
        with pytest.raises(InputError, match=words):
            failing.run()
        assert failing.state.skipped == 7
        # of a state that is not sound there is no checkpoint
        assert not (tmp_path / "run" / CHECKPOINT).exists()
        assert np.isfinite(pd.read_csv(tmp_path / "run" / "log.csv")["loss"].dropna()).all()


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(
    trainer: MakeTrainer, source: Source, part: str
) -> None:
    made = trainer()
    model, profile, stage = made.model, made.profile, first_stage(made.profile)
    optimiser = build_optimiser(parameter_groups(model, profile.train, True), profile.train)
    set_trainable(model, optimiser.param_groups, profile.train, train_backbone=True)
    bias = model.refine.post2.bias
    if part == "loss":
        bias.data.fill_(math.inf)
    else:
        bias.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[no-untyped-call]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    batches = [first_batch(profile, source, 1)]
    assert not math.isfinite(made._step(batches, optimiser, 1e-3, stage)["loss"])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_run_goes_on_in_the_precision_it_began_with(
    trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    for began, now in [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]:
        folder = tmp_path / str(began)
        folder.mkdir()
        monkeypatch.setattr(loop.device, "precision_of", lambda *_, began=began: began)
        settings = ("train.precision=auto", "train.train_layers=[]")  # bf16 may be emulated
        first = trainer(*settings, folder=folder.name)
        first.state.step = first.steps - 1
        first._save(None)
        monkeypatch.setattr(loop.device, "precision_of", lambda *_, now=now: now)
        trainer(*settings, folder=folder.name).run()
        name = str(began).removeprefix("torch.")
        assert f"{name} as it began on cpu" in capsys.readouterr().out
        assert json.loads((folder / "summary.json").read_text())["precision"] == name


def test_a_single_window_can_be_taught(tiny_profile: MakeProfile, source: Source) -> None:
    """SiamMask's first head has batch-norm on single values, which torch refuses for one window."""
    profile = tiny_profile(variant="siammask")
    model = build_model(profile.model).train()
    batch = first_batch(profile, source, 1)
    one = Cells(*(index[:1] for index in batch.cells))
    assert model(batch.template, batch.search, one, "base").mask_logits.shape == (1, 63, 63)


def test_each_group_is_clipped_and_learns_at_its_own_share_of_the_rate(
    trainer: MakeTrainer, source: Source
) -> None:
    """Without momentum and decay, weights move by rate x share x gradient."""
    made = trainer(
        "train.optimiser=sgd", "train.momentum=0", "train.weight_decay=0", "train.clip=0.5",
        "train.backbone_lr=0.5", "train.mask_lr=0.125", "data.negative_pairs=0",
    )  # fmt: skip
    profile, stage = made.profile, first_stage(made.profile)
    groups = parameter_groups(made.model, profile.train, True)
    optimiser = build_optimiser(groups, profile.train)
    set_trainable(made.model, optimiser.param_groups, profile.train, train_backbone=True)
    before = {group["name"]: [value.clone() for value in group["params"]] for group in groups}
    values = made._step([first_batch(profile, source, 1)], optimiser, 0.5, stage)
    shares = {"backbone": 0.5, "location": 1.0, "mask": 0.125, "fusion": 0.125}
    for group, (name, share) in zip(groups, shares.items(), strict=True):
        assert group["name"] == name
        pairs = zip(before[name], group["params"], strict=True)
        moved = torch.stack([(old - new).norm() for old, new in pairs]).norm().item()
        expected = 0.5 * share * min(0.5, values[f"grad_{name}"])
        assert moved == pytest.approx(expected, rel=1e-3, abs=1e-6), name
    assert values["grad_mask"] > 0.5


@pytest.mark.usefixtures("quick")
def test_a_run_leaves_its_record(trainer: MakeTrainer, tmp_path: Path) -> None:
    made = trainer("train.pairs=6")
    model, kept = load_model(made.run())
    assert kept == made.profile
    assert isinstance(model, E3SN)
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["step"].tolist() == [2, 3]
    assert log["pairs"].tolist() == [4, 6]
    assert log[["w2", "w3", "w4"]].to_numpy() == pytest.approx(1 / 3)
    assert log["seconds"].is_monotonic_increasing


def test_a_row_of_the_log_is_of_the_steps_since_the_row_before(
    trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by 1 for each pair that is drawn and by 3 for each step."""
    clock, losses, memory = [0.0], iter([1.0, 2.0, 6.0]), iter([3, 2])
    draw = PairDataset.__getitem__

    def drawn(dataset: PairDataset, index: int) -> Pair:
        clock[0] += 1
        return draw(dataset, index)

    def step(*_: object) -> dict[str, float]:
        clock[0] += 3
        return {"loss": next(losses)}

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(loop.device, "peak_memory_bytes", lambda: next(memory) * 2**20)
    monkeypatch.setattr(PairDataset, "__getitem__", drawn)
    monkeypatch.setattr(Trainer, "_step", step)
    trainer("train.pairs=6").run()
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["loss"].tolist() == [1.5, 6]
    assert log["seconds"].tolist() == [10, 15]
    assert log["pairs_per_second"].tolist() == pytest.approx([4 / 10, 2 / 5])
    assert log["data_share"].tolist() == pytest.approx([4 / 10, 2 / 5])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["seconds"], summary["peak_memory_mb"]) == (15, 3)


@pytest.mark.usefixtures("quick")
def test_ctrl_c_ends_the_step_saves_and_says_how_to_go_on(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    before = signal.getsignal(signal.SIGINT)
    draw = PairDataset.__getitem__

    def pressed(dataset: PairDataset, index: int) -> Pair:
        if dataset.first + index == 3:
            signal.raise_signal(signal.SIGINT)
        return draw(dataset, index)

    with monkeypatch.context() as patched:
        patched.setattr(PairDataset, "__getitem__", pressed)
        words = "stopped after step 2 of 3; the same command or cell goes on from there"
        with pytest.raises(KeyboardInterrupt, match=words):
            trainer("train.pairs=6").run()
    capsys.readouterr()
    trainer("train.pairs=6").run()
    assert "from step 2" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before


def test_asked_to_end_in_the_last_step_it_says_that_the_run_is_finished(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    draw = PairDataset.__getitem__

    def pressed(dataset: PairDataset, index: int) -> Pair:
        if dataset.first + index == 3:
            signal.raise_signal(signal.SIGTERM)
        return draw(dataset, index)

    monkeypatch.setattr(PairDataset, "__getitem__", pressed)
    with pytest.raises(KeyboardInterrupt, match="run is finished"):
        trainer("train.pairs=4").run()
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_the_average_lags_behind_the_weights(trainer: MakeTrainer) -> None:
    """Each step's weights, and its statistics, come in with the share 1 - d.

    Here d is (1 + n) / (10 + n) for n weights so far, and 0.25 at most.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def values(model: E3SN) -> tuple[Tensor, Tensor]:
        return model.neck[0].weight.detach().clone(), model.neck[1].running_var.clone()

    made = trainer("train.pairs=4", "train.batch_size=1", "train.average=0.25")
    assert made.average is not None
    update = made.average.update_parameters

    def noted(model: E3SN) -> None:
        seen.append(values(model))
        update(model)

    made.average.update_parameters = noted  # type: ignore[method-assign]
    final, _ = load_model(made.run())
    assert len(seen) == 4
    assert not torch.equal(seen[0][0], seen[3][0])
    for found, (expected, *later) in zip(values(final), zip(*seen, strict=True), strict=True):
        for decay, value in zip((2 / 11, 0.25, 0.25), later, strict=True):
            expected = decay * expected + (1 - decay) * value
        # saved in half precision
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_the_average_holds_nothing_of_the_untrained_start() -> None:
    """A value that jumps from 0 to 1 and stays there for 60 steps is averaged to 1, and not to 1 - 0.998^60."""
    value = nn.Linear(1, 1)
    average = AveragedModel(value, multi_avg_fn=warmed_average(0.998))
    for number in range(61):
        nn.init.constant_(value.weight, float(number > 0))
        average.update_parameters(value)
    assert float(average.module.weight.detach()) == pytest.approx(1, abs=1e-6)


def test_the_average_starts_anew_with_each_stage(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_backward", lambda *_: {"loss": 1.0})
    made = trainer("train.average=0.5", variant="siammask")
    made.run()
    assert made.average is not None
    assert len(made.stages) == 2
    assert int(made.average.n_averaged) == made.stages[-1].steps


def test_what_a_later_stage_freezes_is_the_average_of_the_one_before(trainer: MakeTrainer) -> None:
    made = trainer("train.average=0.5", "train.lr=[0.01, 0.01]", variant="siammask")
    start, ends = made._start_stage, list[dict[str, Tensor]]()

    def noted(stage: StagePlan) -> torch.optim.Optimizer:
        assert made.average is not None
        if made.state.step:
            ends.extend(
                copy.deepcopy(each.state_dict()) for each in (made.average.module, made.model)
            )
        return start(stage)

    made._start_stage = noted  # type: ignore[method-assign]
    final, _ = load_model(made.run())
    average, last = ends
    assert not torch.equal(average["neck.0.weight"], last["neck.0.weight"])
    for name, value in final.state_dict().items():
        if name.startswith(("backbone.", "neck.", "rpn.")):  # saved in half precision
            torch.testing.assert_close(value, average[name], rtol=1e-3, atol=1e-6)


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(
    trainer: MakeTrainer, tiny_profile: MakeProfile, source: Source
) -> None:
    """With batch-norm at rest nothing but the losses' denominators could differ."""
    made = trainer("data.negative_pairs=0.4")
    stage = first_stage(made.profile)
    pairs = PairDataset([source], made.profile, stage)
    whole, *parts = (
        collate([pairs[i] for i in part]) for part in (range(6), (0, 1), (2, 3), (4, 5))
    )
    assert count_targets(whole.anchor_labels, whole.sample_labels).windows > 3
    made.model.eval()
    gradients, values = [], []
    for group in ([whole], parts):
        made.model.zero_grad()
        values.append(made._backward(group, stage))
        gradients.append([each.grad for each in made.model.parameters() if each.grad is not None])
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def test_who_watches_sees_each_row_of_the_log(trainer: MakeTrainer, tmp_path: Path) -> None:
    seen: list[pd.DataFrame] = []
    trainer("train.pairs=4", "train.batch_size=1").run(watch=seen.append)
    assert [list(log["step"]) for log in seen] == [[2], [2, 4]]
    written = pd.read_csv(tmp_path / "run" / "log.csv")
    pd.testing.assert_frame_equal(seen[-1], written, check_dtype=False, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "error", "expected"),
    [
        (1, "Connection closed by peer", RuntimeError),
        (2, "Connection closed by peer", InputError),
        (2, "shapes do not fit", RuntimeError),
    ],
)
def test_a_process_that_ends_is_said_by_the_others(
    monkeypatch: pytest.MonkeyPatch, count: int, error: str, expected: type[Exception]
) -> None:
    """Only with others can the failure be theirs; a fault of the code keeps its traceback."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "made")
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(loop.processes.dist, name, lambda *_, **__: None)
    monkeypatch.setattr(loop.processes, "world", lambda: count)
    with pytest.raises(expected, match=error), loop.processes.process_group():
        raise RuntimeError(error)


def test_processes_that_do_not_divide_the_batch_are_refused(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.processes, "world", lambda: 2)
    for settings, parts in (
        (("train.batch_size=3",), r"2 \(processes\) x 1"),
        (("train.batch_size=4", "train.accumulate=3"), r"2 \(processes\) x 3"),
    ):
        with pytest.raises(InputError, match=rf"a multiple of {parts} \(train\.accumulate\)"):
            trainer(*settings)


def test_tensorboard_gets_each_row_of_the_log(
    trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, float, int]] = []
    writer = SimpleNamespace(add_scalar=lambda *row: written.append(row), flush=lambda: None)
    stub = SimpleNamespace(SummaryWriter=lambda folder: writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stub)
    trainer("train.pairs=4", "train.batch_size=1", "train.tensorboard=true").run()
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    losses = [(value, step) for key, value, step in written if key == "loss"]
    assert losses == [pytest.approx(row) for row in log[["loss", "step"]].to_numpy().tolist()]
    assert {key for key, *_ in written} == {*log} - {"step", "stage"}


def test_tensorboard_that_is_not_there_is_said(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = r"train\.tensorboard needs TensorBoard; pip install tensorboard"
    with pytest.raises(InputError, match=words):
        trainer("train.tensorboard=true").run()
