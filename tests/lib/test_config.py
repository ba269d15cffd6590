"""Settings: what ships is what the paper says, survives a round trip, and bad input is one clear line."""

import dataclasses
import itertools
import json

import pytest
import yaml

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.profiles.identity import config_hash, training_settings
from e3sn_lib.profiles.loading import (
    available_profiles,
    available_variants,
    load_profile,
    profile_from_dict,
)

PROFILES = ["cpu", "long", "paper", "smoke"]
VARIANTS = ["e3sn", "e3sn-s", "siammask"]
EVERY = list(itertools.product(PROFILES, VARIANTS))


def test_what_ships():
    assert available_profiles() == PROFILES
    assert available_variants() == VARIANTS


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_profiles_survive_a_round_trip(name, variant):
    profile = load_profile(name, variant, seed=3)
    assert (profile.name, profile.variant, profile.seed) == (name, variant, 3)
    assert profile_from_dict(json.loads(json.dumps(profile.to_dict()))) == profile
    assert profile_from_dict(yaml.safe_load(yaml.safe_dump(profile.to_dict()))) == profile


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_profiles_can_be_run(name, variant):
    profile = load_profile(name, variant)
    assert profile.title
    assert profile.data.train
    assert {entry.name for entry in profile.data.evaluation} == {"davis2016", "davis2017"}
    assert sum(stage.share for stage in profile.stages.values()) == pytest.approx(1)
    assert any(stage.mask == "refine" for stage in profile.stages.values())
    assert {stage.mask for stage in profile.stages.values()} <= (
        {"refine", "base"} if profile.model.base_head else {"refine"}
    )


def test_paper_profile_has_the_numbers_of_the_paper():
    paper = load_profile("paper")
    assert paper.model.backbone == "resnet50"
    assert paper.model.levels == (2, 3, 4)
    assert (paper.sampler.samples_per_image, paper.sampler.positives_per_image) == (4, 3)
    assert (paper.sampler.high, paper.sampler.low) == (0.6, 0.3)
    assert (paper.loss.cls_weight, paper.loss.loc_weight, paper.loss.mask_weight) == (1, 1, 32)
    assert (paper.loss.loc, paper.loss.negatives) == ("smooth_l1", "zero")
    assert (paper.train.optimiser, paper.train.lr, paper.train.epochs, paper.train.mask_lr) == (
        "sgd",
        (2e-3, 2e-4),
        20,
        0.1,
    )
    assert paper.train.weights == "torchvision"
    assert (paper.track.mask_threshold, paper.track.crop) == (0.5, "exact")
    assert [(stage.mask, stage.search_size, stage.share) for stage in paper.stages.values()] == [
        ("refine", 255, 1)
    ]
    assert {each.kind for each in paper.data.train} == {"imagenet_vid", "coco", "youtube_vos"}


def test_paper_profile_has_siammask_s_values_where_the_paper_is_silent():
    paper = load_profile("paper")
    train, augment = paper.train, paper.augment
    assert (train.batch_size, train.momentum, train.weight_decay, train.clip) == (64, 0.9, 1e-4, 10)
    assert (train.pairs, train.warmup) == (20 * 600_000, 0)
    assert (train.unfreeze_at, train.train_layers, train.backbone_lr) == (
        0.5,
        ("layer2", "layer3"),
        0.1,
    )
    assert (train.train_shortcuts, train.average) == (True, 0)
    assert (
        augment.template_shift,
        augment.template_scale,
        augment.search_shift,
        augment.search_scale,
    ) == (4, 0.05, 64, 0.18)
    assert (augment.blur, augment.grey, augment.flip, paper.data.negative_pairs) == (
        0.18,
        0.25,
        0,
        0.2,
    )
    assert (augment.rotation, augment.new_background, augment.search_zoom) == (0, 0, 0)
    sets = {each.kind: (each.weight, each.frame_range) for each in paper.data.train}
    assert sets == {"imagenet_vid": (200, 100), "youtube_vos": (200, 20), "coco": (117, 1)}
    assert {each.kind: each.min_area for each in paper.data.train}["youtube_vos"] == 1000
    assert (paper.sampler.anchor_positives, paper.sampler.anchor_total) == (16, 64)
    assert (paper.track.penalty_k, paper.track.window_influence, paper.track.size_lr) == (
        0.04,
        0.4,
        1,
    )


def test_siammask_in_the_paper_profile_has_its_two_published_stages():
    siammask = load_profile("paper", "siammask")
    base, sharp = siammask.stages["base"], siammask.stages["sharp"]
    assert [siammask.train.pairs * stage.share for stage in (base, sharp)] == [
        20 * 600_000,
        20 * 200_000,
    ]
    assert (base.mask, base.search_size, base.lr, base.warmup, base.train_location) == (
        "base",
        255,
        (5e-3, 2.5e-3),
        0.25,
        True,
    )
    assert (sharp.mask, sharp.search_size, sharp.lr, sharp.train_location) == (
        "refine",
        143,
        (1e-2, 2.5e-3),
        False,
    )
    assert (sharp.search_shift, sharp.negative_pairs) == (8, 0)
    assert (sharp.warmup, siammask.train.warmup) == (None, 0)
    assert sharp.sets == {"imagenet_vid": 0, "youtube_vos": 100, "coco": 117}
    assert (
        siammask.loss.cls_weight,
        siammask.loss.loc_weight,
        siammask.loss.mask_weight,
        siammask.loss.loc,
    ) == (1, 1.2, 36, "l1")
    assert (siammask.train.mask_lr, siammask.train.batch_size, siammask.train.unfreeze_at) == (
        1,
        64,
        0.5,
    )


def test_a_stage_s_later_settings_do_not_rename_runs_that_lack_them():
    settings = training_settings(load_profile("cpu"))
    assert "warmup" not in settings["stages"]["end_to_end"]
    changed = training_settings(
        load_profile(
            "cpu", overrides=["stages.end_to_end.warmup=0.1", "stages.end_to_end.sets.coco=2"]
        )
    )
    assert (changed["stages"]["end_to_end"]["warmup"], changed["stages"]["end_to_end"]["sets"]) == (
        0.1,
        {"coco": 2.0},
    )


def test_a_set_s_later_settings_do_not_rename_runs_that_lack_them():
    """Settings that keep their defaults are not listed, as before there were any."""
    sets = [
        {"kind": "mask_folder", "path": "a"},
        {"kind": "mask_folder", "path": "a", "mask_kind": "ids"},
    ]
    plain, ids = (
        training_settings(load_profile("smoke", overrides=[f"data.train={[each]}"]))
        for each in sets
    )
    old = {
        "kind",
        "path",
        "weight",
        "frame_range",
        "year",
        "split",
        "images",
        "annotations",
        "min_area",
        "hold_out",
    }
    assert set(plain["data"]["train"][0]) == old
    assert set(ids["data"]["train"][0]) == {*old, "mask_kind"}


def test_runs_keep_the_names_they_were_given_when_minus_one_was_not_set():
    """Hashes of `training_settings` as they were computed then."""
    settings = {
        f"{name} {variant}": training_settings(load_profile(name, variant))
        for name, variant in EVERY
        if name != "long"
    }
    assert {key: config_hash(value) for key, value in settings.items()} == {
        "cpu e3sn": "00f09bb3",
        "cpu e3sn-s": "4ad846d7",
        "cpu siammask": "3d57f4f2",
        "paper e3sn": "7d6f8962",
        "paper e3sn-s": "ae9cdb3d",
        "paper siammask": "7700dd34",
        "smoke e3sn": "2997669e",
        "smoke e3sn-s": "cf9263f7",
        "smoke siammask": "e53eef60",
    }


def test_files_in_which_minus_one_is_not_set_are_read_as_before():
    profile = load_profile("paper", "siammask")
    old = profile.to_dict()
    for stage, key in (("base", "search_shift"), ("base", "negative_pairs"), ("sharp", "warmup")):
        assert old["stages"][stage][key] is None
        old["stages"][stage][key] = -1.0
    assert profile_from_dict(old) == profile


def test_variants_differ_as_the_paper_says():
    e3sn, single, siammask = (load_profile("paper", variant) for variant in VARIANTS)
    assert single.model.levels == siammask.model.levels == (4,)
    assert single.sampler == e3sn.sampler
    assert siammask.sampler.policy == "all_positive"
    assert len(siammask.stages) == 2
    assert list(siammask.stages.values())[-1].search_size == 143
    assert not list(siammask.stages.values())[-1].train_location


def test_profiles_grow():
    pairs = [load_profile(name).train.pairs for name in ("smoke", "cpu", "paper")]
    assert pairs == sorted(set(pairs))
    assert load_profile("cpu").model.backbone == load_profile("paper").model.backbone


def test_overrides_come_last_and_change_nothing_else():
    base = load_profile("cpu")
    changed = load_profile(
        "cpu",
        overrides=["train.pairs=1000", "train.lr=[1e-3, 1e-4]", "model.levels=4", "data.workers=0"],
    )
    assert (changed.train.pairs, changed.train.lr, changed.model.levels) == (
        1000,
        (1e-3, 1e-4),
        (4,),
    )
    restored = dataclasses.replace(
        changed,
        train=dataclasses.replace(changed.train, pairs=base.train.pairs, lr=base.train.lr),
        model=base.model,
        data=dataclasses.replace(changed.data, workers=base.data.workers),
    )
    assert restored == base


def test_data_root_is_replaced_unless_empty(tmp_path):
    assert load_profile("smoke", data_root=tmp_path).data.root == str(tmp_path)
    assert load_profile("smoke", data_root="").data.root == load_profile("smoke").data.root


def test_profile_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {pairs: 7}\nvariants: {e3sn-s: {train: {pairs: 5}}}\n")
    assert load_profile(str(path)).train.pairs == 7
    assert load_profile(str(path), "e3sn-s").train.pairs == 5
    assert load_profile(str(path)).name == "mine"


def test_settings_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_profile("smoke").train.pairs = 1


def test_hash_depends_on_values_and_not_on_order():
    settings = load_profile("smoke").to_dict()
    backwards = json.loads(
        json.dumps(settings), object_pairs_hook=lambda pairs: dict(reversed(pairs))
    )
    assert list(backwards) == list(reversed(settings))
    assert config_hash(backwards) == config_hash(settings)
    assert len(
        {
            config_hash(load_profile(name, variant, seed=seed).to_dict())
            for name, variant in EVERY
            for seed in (0, 1)
        }
    ) == 2 * len(EVERY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "smok"},
            "unknown profile 'smok' (did you mean 'smoke'?); there are cpu, long, paper, smoke",
        ),
        ({"name": "variants"}, "unknown profile 'variants'"),
        ({"name": "missing.yaml"}, "unknown profile 'missing.yaml'"),
        (
            {"variant": "e3sn_s"},
            "unknown variant 'e3sn_s' (did you mean 'e3sn-s'?); there are e3sn, e3sn-s, siammask",
        ),
        ({"overrides": ["train.pair=3"]}, "unknown setting 'train.pair' (did you mean 'pairs'?)"),
        ({"overrides": ["trian.pairs=3"]}, "unknown setting 'trian' (did you mean 'train'?)"),
        (
            {"overrides": ["stages.end_to_end.masks=base"]},
            "unknown setting 'stages.end_to_end.masks' (did you mean 'mask'?)",
        ),
        ({"overrides": ["tr\nain.pairs=3"]}, "unknown setting 'tr\\nain'"),
        ({"overrides": ["train.pairs"]}, "'train.pairs' is not of the form key=value"),
        ({"overrides": ["=3"]}, "'=3' is not of the form key=value"),
        ({"overrides": ["train.pairs=many"]}, "train.pairs must be"),
        ({"overrides": ["train.pairs=1.5"]}, "train.pairs must be"),
        ({"overrides": ["train.pairs=true"]}, "train.pairs must be"),
        ({"overrides": ["train.momentum=high"]}, "train.momentum must be"),
        ({"overrides": ["model.levels=[2, x]"]}, "model.levels[1] is 'x'; it can be 2, 3, 4"),
        ({"overrides": ["train=3"]}, "train must be a set of key: value settings"),
        (
            {"overrides": ["model.backbone=resnet51"]},
            "model.backbone is 'resnet51' (did you mean 'resnet50'?)",
        ),
        ({"overrides": ["model.levels=[1]"]}, "model.levels[0] is 1; it can be 2, 3, 4"),
        ({"overrides": ["model.levels=[]"]}, "model.levels must have an entry"),
        ({"overrides": ["sampler.positives_per_image=5"]}, "sampler.positives_per_image"),
        ({"overrides": ["train.lr=[1e-3]"]}, "a learning rate is two numbers"),
        ({"overrides": ["train.lr=[0, 0]"]}, "train.lr[0] must be above 0, not 0"),
        ({"overrides": ["train.warmup=.nan"]}, "train.warmup must be a finite number, not nan"),
        ({"overrides": ["train.average=.inf"]}, "train.average must be a finite number, not inf"),
        ({"overrides": ["train.pairs=0x10"]}, "up to 20 decimal digits"),
        ({"overrides": [f"train.pairs={'9' * 5000}"]}, "up to 20 decimal digits"),
        ({"overrides": ["train.train_layers=[layer9]"]}, "train.train_layers[0] is 'layer9'"),
        ({"overrides": ["train.train_layers=[stem, stem]"]}, "it must name each only once"),
        ({"overrides": ["model.levels=[2, 2]"]}, "each only once"),
        (
            {"overrides": ["sampler.low=0.9"]},
            "sampler.low is 0.9; it must be at most sampler.high, 0.6",
        ),
        ({"overrides": ["sampler.anchor_total=3"]}, "it must be at most sampler.anchor_total, 3"),
        (
            {"overrides": ["augment.search_shift=-3"]},
            "augment.search_shift must be at least 0, not -3",
        ),
        ({"overrides": ["augment.flip=2"]}, "augment.flip must be at most 1, not 2"),
        ({"overrides": ["data.workers=5000"]}, "data.workers must be at most 64, not 5000"),
        (
            {"overrides": ["data.train=[{kind: cocoa, path: a}]"]},
            "data.train[0].kind is 'cocoa' (did you mean 'coco'?)",
        ),
        (
            {"overrides": ["data.train=[{kid: coco, path: a}]"]},
            "'data.train[0].kid' (did you mean 'kind'?)",
        ),
        ({"overrides": ["data.train=[{kind: coco, path: ../a}]"]}, "without '..'"),
        (
            {"overrides": ["data.train=[{kind: coco, path: []}]"]},
            "data.train[0].path must have an entry, not []",
        ),
        (
            {"overrides": ["data.evaluation=[{kind: davis, path: a, name: b/c}]"]},
            "data.evaluation[0].name is 'b/c'",
        ),
        ({"overrides": ["stages="]}, "stages must be a set of key: value settings, not None"),
        (
            {"overrides": ["stages.two.share=1"]},
            "variant e3sn has no stage 'two'; there are end_to_end",
        ),
        (
            {"overrides": ["stages.end_to_end.share=0.5"]},
            "stages.end_to_end.share: the sum is 0.5; it must be 1",
        ),
        (
            {"overrides": ["stages.end_to_end.search_shift=-2"]},
            "stages.end_to_end.search_shift must be at least 0",
        ),
        ({"overrides": ["stages.end_to_end.mask=base"]}, "this needs model.base_head=true"),
        ({"overrides": ["title='a\n\nb'"]}, "title must be one line of text"),
        ({"overrides": ["train=*other"]}, "an alias (*name) is not allowed"),
        (
            {"overrides": ["train={pairs: 3, pairs: 4}"]},
            "this key stands twice in line 1, column 12",
        ),
        ({"overrides": ["train={3: 4}"]}, "a key must be text"),
        ({"overrides": [f"train={'[' * 3000}"]}, "nested too deep"),
        ({"overrides": [f"title={'a' * 70_000}"]}, "is longer than 65536 characters"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"overrides": ["stages.end_to_end.mask=both"]}, "stages.end_to_end.mask is 'both'"),
        (
            {"overrides": ["stages.end_to_end.sets.synthetics=1"]},
            "names 'synthetics' (did you mean 'synthetic'?)",
        ),
    ],
)
def test_bad_settings_are_one_line_that_says_which(arguments, message):
    with pytest.raises(InputError) as caught:
        load_profile(**{"name": "smoke", **arguments})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: [", "cannot read"),
        ("", "holds no settings"),
        ("- a", "holds no settings"),
        ("train: {pair: 3}", "unknown setting 'train.pair'"),
        ("train: {pairs: 3}\nmodel: {}\ntrain: {}", "this key stands twice in line 3, column 1"),
        (
            "a: &a [x, x]\nb: [*a, *a]",
            "an alias (*name) is not allowed, write its value out; in line 2, column 5",
        ),
        ("train: {pairs: !!python/name:os.system x}", "could not determine a constructor"),
        ("? !!str [a]\n: b", "a key must be text"),
        ("train: {pairs: !!timestamp x}", "a character or a value is not valid"),
        ("train: {pairs: !!bool x}", "a character or a value is not valid"),
        ("\x00", "a character or a value is not valid"),
        ("variants: {e3sm: {}}", "settings for unknown variant 'e3sm' (did you mean 'e3sn'?)"),
        ("data: {train: [{path: here}]}", "data.train[0].kind is missing"),
    ],
)
def test_bad_file_is_one_line_that_says_where(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        load_profile(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_names_are_no_profile():
    with pytest.raises(InputError):
        profile_from_dict({})
    assert isinstance(profile_from_dict({"name": "x", "variant": "e3sn"}), Profile)
