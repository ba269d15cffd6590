"""Settings: what ships is what the paper says, survives a round trip, and bad input is one clear line."""

import dataclasses
import itertools
import json
import re

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


def check(config, **expected):
    assert {name: getattr(config, name) for name in expected} == expected


def test_paper_profile_has_the_numbers_of_the_paper():
    paper = load_profile("paper")
    check(paper.model, backbone="resnet50", levels=(2, 3, 4))
    check(paper.sampler, samples_per_image=4, positives_per_image=3, high=0.6, low=0.3)
    check(paper.loss, cls_weight=1, loc_weight=1, mask_weight=32, loc="smooth_l1", negatives="zero")
    check(paper.train, optimiser="sgd", lr=(2e-3, 2e-4), epochs=20, mask_lr=0.1)
    check(paper.train, weights="torchvision")
    check(paper.track, mask_threshold=0.5, crop="exact")
    (stage,) = paper.stages.values()
    check(stage, mask="refine", search_size=255, share=1)
    assert {each.kind for each in paper.data.train} == {"imagenet_vid", "coco", "youtube_vos"}


def test_paper_profile_has_siammask_s_values_where_the_paper_is_silent():
    paper = load_profile("paper")
    check(paper.train, batch_size=64, momentum=0.9, weight_decay=1e-4, clip=10, pairs=20 * 600_000)
    check(paper.train, unfreeze_at=0.5, train_layers=("layer2", "layer3"), backbone_lr=0.1)
    check(paper.train, warmup=0, train_shortcuts=True, average=0)
    check(paper.augment, template_shift=4, template_scale=0.05, search_shift=64, search_scale=0.18)
    check(paper.augment, blur=0.18, grey=0.25, flip=0, rotation=0, new_background=0, search_zoom=0)
    sets = {each.kind: (each.weight, each.frame_range) for each in paper.data.train}
    assert sets == {"imagenet_vid": (200, 100), "youtube_vos": (200, 20), "coco": (117, 1)}
    assert {each.kind: each.min_area for each in paper.data.train}["youtube_vos"] == 1000
    check(paper.data, negative_pairs=0.2)
    check(paper.sampler, anchor_positives=16, anchor_total=64)
    check(paper.track, penalty_k=0.04, window_influence=0.4, size_lr=1)


def test_siammask_in_the_paper_profile_has_its_two_published_stages():
    siammask = load_profile("paper", "siammask")
    base, sharp = siammask.stages["base"], siammask.stages["sharp"]
    assert siammask.train.pairs * base.share == 20 * 600_000
    assert siammask.train.pairs * sharp.share == 20 * 200_000
    check(base, mask="base", search_size=255, lr=(5e-3, 2.5e-3), warmup=0.25, train_location=True)
    check(sharp, mask="refine", search_size=143, lr=(1e-2, 2.5e-3), train_location=False)
    check(sharp, search_shift=8, negative_pairs=0, warmup=None)
    check(sharp, sets={"imagenet_vid": 0, "youtube_vos": 100, "coco": 117})
    check(siammask.loss, cls_weight=1, loc_weight=1.2, mask_weight=36, loc="l1")
    check(siammask.train, mask_lr=1, batch_size=64, unfreeze_at=0.5, warmup=0)


def test_a_stage_s_later_settings_do_not_rename_runs_that_lack_them():
    def stage(*overrides):
        return training_settings(load_profile("cpu", overrides=overrides))["stages"]["end_to_end"]

    plain = stage()
    changed = stage("stages.end_to_end.warmup=0.1", "stages.end_to_end.sets.coco=2")
    assert changed == plain | {"warmup": 0.1, "sets": {"coco": 2.0}}
    assert not {"warmup", "sets"} & plain.keys()


def test_a_set_s_later_settings_do_not_rename_runs_that_lack_them():
    """Settings that keep their defaults are not listed, as before there were any."""
    old = {
        *("kind", "path", "weight", "frame_range", "year"),
        *("split", "images", "annotations", "min_area", "hold_out"),
    }
    for more, listed in (("", old), (", mask_kind: ids", {*old, "mask_kind"})):
        override = f"data.train={{kind: mask_folder, path: a{more}}}"
        settings = training_settings(load_profile("smoke", overrides=[override]))
        assert set(settings["data"]["train"][0]) == listed


def test_runs_keep_the_names_they_were_given_when_minus_one_was_not_set():
    """Hashes of `training_settings` as they were computed then."""
    hashes = {
        "cpu": ["00f09bb3", "4ad846d7", "3d57f4f2"],
        "paper": ["7d6f8962", "ae9cdb3d", "7700dd34"],
        "smoke": ["2997669e", "cf9263f7", "e53eef60"],
    }
    for name, known in hashes.items():
        settings = [training_settings(load_profile(name, variant)) for variant in VARIANTS]
        assert [config_hash(each) for each in settings] == known


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


def test_locations_are_taught_on_whole_search_crops_only():
    words = (
        "stages.end_to_end.search_size is 143; this needs stages.end_to_end.train_location=false"
    )
    with pytest.raises(InputError, match=re.escape(words)):
        load_profile("smoke", overrides=["stages.end_to_end.search_size=143"])


def test_a_data_folder_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert load_profile("smoke", data_root="~/data").data.root == "/home/me/data"


def test_overrides_come_last_and_change_nothing_else():
    base = load_profile("cpu")
    overrides = ["train.pairs=1000", "train.lr=[1e-3, 1e-4]", "model.levels=4", "data.workers=0"]
    changed = load_profile("cpu", overrides=overrides)
    check(changed.train, pairs=1000, lr=(1e-3, 1e-4))
    check(changed.model, levels=(4,))
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
    backwards = dict(reversed(settings.items()))
    assert list(backwards) != list(settings)
    assert config_hash(backwards) == config_hash(settings)
    every = [load_profile(*names, seed=seed).to_dict() for names in EVERY for seed in (0, 1)]
    assert len({config_hash(settings) for settings in every}) == len(every)


def refusal(*arguments, **named):
    """Return the line with which a profile is refused."""
    with pytest.raises(InputError) as caught:
        load_profile(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.pair=3", "unknown setting 'train.pair' (did you mean 'pairs'?)"),
        ("trian.pairs=3", "unknown setting 'trian' (did you mean 'train'?)"),
        (
            "stages.end_to_end.masks=base",
            "unknown setting 'stages.end_to_end.masks' (did you mean 'mask'?)",
        ),
        ("tr\nain.pairs=3", "unknown setting 'tr\\nain'"),
        ("train.pairs", "'train.pairs' is not of the form key=value"),
        ("=3", "'=3' is not of the form key=value"),
        ("train.pairs=many", "train.pairs must be a valid integer"),
        ("train.pairs=1.5", "train.pairs must be"),
        ("train.pairs=true", "train.pairs must be"),
        ("train.momentum=high", "train.momentum must be"),
        ("model.levels=[2, x]", "model.levels[1] must be 2, 3 or 4, not 'x'"),
        ("train=3", "train must be a set of key: value settings"),
        (
            "model.backbone=resnet51",
            "model.backbone must be 'resnet50' or 'resnet18', not 'resnet51' (did you mean 'resnet50'?)",
        ),
        ("model.levels=[1]", "model.levels[0] must be 2, 3 or 4, not 1"),
        ("model.levels=[]", "model.levels must have an entry"),
        ("sampler.positives_per_image=5", "sampler.positives_per_image"),
        ("train.lr=[1e-3]", "a learning rate is two numbers"),
        ("train.lr=[0, 0]", "train.lr[0] must be greater than 0, not 0"),
        ("train.warmup=.nan", "train.warmup must be a finite number, not nan"),
        ("train.average=.inf", "train.average must be a finite number, not inf"),
        ("train.pairs=0x10", "up to 20 decimal digits"),
        (f"train.pairs={'9' * 5000}", "up to 20 decimal digits"),
        (
            "train.train_layers=[layer9]",
            "train.train_layers[0] must be 'stem', 'layer1', 'layer2' or 'layer3', not 'layer9'",
        ),
        ("train.train_layers=[stem, stem]", "it must name each only once"),
        ("model.levels=[2, 2]", "each only once"),
        ("sampler.low=0.9", "sampler.low is 0.9; it must be at most sampler.high, 0.6"),
        ("sampler.anchor_total=3", "it must be at most sampler.anchor_total, 3"),
        (
            "augment.search_shift=-3",
            "augment.search_shift must be greater than or equal to 0, not -3",
        ),
        ("augment.flip=2", "augment.flip must be less than or equal to 1, not 2"),
        ("data.workers=5000", "data.workers must be less than or equal to 64, not 5000"),
        ("data.train=[{kind: cocoa, path: a}]", "not 'cocoa' (did you mean 'coco'?)"),
        ("data.train=[{kid: coco, path: a}]", "'data.train[0].kid' (did you mean 'kind'?)"),
        ("data.train=[{kind: coco, path: ../a}]", "without '..'"),
        ("data.train=[{kind: coco, path: []}]", "data.train[0].path must have an entry, not []"),
        ("data.evaluation=[{kind: davis, path: a, name: b/c}]", "data.evaluation[0].name is 'b/c'"),
        (
            "data.evaluation=[{kind: davis, path: a, name: b}, {kind: davis, path: c, name: b}]",
            "data.evaluation has two benchmarks 'b'; rename one",
        ),
        ("stages=", "stages must be a set of key: value settings, not None"),
        ("stages.two.share=1", "e3sn has no stage 'two'; there are end_to_end"),
        ("stages.end_to_end.share=0.5", "stages.end_to_end.share: the sum is 0.5; it must be 1"),
        (
            "stages.end_to_end.search_shift=-2",
            "stages.end_to_end.search_shift must be greater than or equal to 0",
        ),
        ("stages.end_to_end.mask=base", "this needs model.base_head=true"),
        ("title='a\n\nb'", "title must be one line of text"),
        ("train=*other", "an alias (*name) is not allowed"),
        ("train={pairs: 3, pairs: 4}", "this key stands twice in line 1, column 12"),
        ("train={3: 4}", "train[3] must have text as its key"),
        (f"train={'[' * 3000}", "nested too deep"),
        (f"title={'a' * 70_000}", "is longer than 65536 characters"),
        (
            "stages.end_to_end.mask=both",
            "stages.end_to_end.mask must be 'refine' or 'base', not 'both'",
        ),
        ("stages.end_to_end.sets.synthetics=1", "names 'synthetics' (did you mean 'synthetic'?)"),
    ],
)
def test_a_bad_override_is_one_line_that_says_which(override, message):
    line = refusal("smoke", overrides=[override])
    assert message in line
    assert "data.data" not in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "smok"},
            "unknown profile or .yaml file 'smok' (did you mean 'smoke'?); there are cpu, long, paper, smoke",
        ),
        ({"name": "variants"}, "unknown profile or .yaml file 'variants'"),
        ({"name": "missing.yaml"}, "unknown profile or .yaml file 'missing.yaml'"),
        (
            {"variant": "e3sn_s"},
            "unknown variant 'e3sn_s' (did you mean 'e3sn-s'?); there are e3sn, e3sn-s, siammask",
        ),
        ({"seed": -1}, "seed must be greater than or equal to 0, not -1"),
    ],
)
def test_bad_names_are_one_line(arguments, message):
    assert message in refusal(**{"name": "smoke", **arguments})


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
        ("? !!str [a]\n: b", "cannot read"),
        ("train: {pairs: !!timestamp x}", "a character or a value is not valid"),
        ("train: {pairs: !!bool x}", "a character or a value is not valid"),
        ("\x00", "a character or a value is not valid"),
        ("variants: {e3sm: {}}", "settings for unknown variant 'e3sm' (did you mean 'e3sn'?)"),
        ("data: {train: [{path: here}]}", "data.train[0].kind is missing"),
        ("seed: 7", "bad.yaml: seed is no setting but an argument of its own"),
    ],
)
def test_bad_file_is_one_line_that_says_where(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    assert message in refusal(str(path))


def test_missing_names_are_no_profile():
    with pytest.raises(InputError):
        profile_from_dict({})
    assert isinstance(profile_from_dict({"name": "x", "variant": "e3sn"}), Profile)
