"""Settings of the study: frozen dataclasses, filled from ``profiles/*.yaml``.

A *profile* (smoke, cpu, paper) says how much data and time is spent, a *variant* (e3sn, e3sn-s, siammask) which network is
built and in how many stages it is trained. Both are YAML; an unknown key is an error with a suggestion.
Each field says where its default comes from: *paper* with its section, *SiamMask* (the public code), or *ours*.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from e3sn_lib.errors import InputError

PROFILE_DIR = Path(__file__).parent / "profiles"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
"""What the network can be computed in, see `e3sn_lib.precision`."""


@dataclass(frozen=True)
class ModelConfig:
    """The network; see `e3sn_lib.model.network.build_model`."""

    backbone: str = "resnet50"
    """``resnet50`` (paper 3.2) or ``resnet18`` (ours, for the smoke profile)."""
    block_layout: str = "v1.5"
    """Where a bottleneck strides: ``v1.5`` in the 3x3 (torchvision, SiamMask), ``v1`` in the first 1x1 (Caffe, Keras)."""
    channels: int = 256
    """Width of neck, correlation and heads (SiamMask)."""
    levels: tuple[int, ...] = (2, 3, 4)
    """Backbone levels whose correlations are fused for the mask (paper 3.4); (4,) is the paper's "E3SN only S"."""
    fusion: str = "softmax"
    """How level weights are formed: ``softmax`` of three scalars (inferred from SiamRPN++), ``raw`` scalars, or ``fixed``."""
    level_scale: str = "mean"
    """``mean`` divides a level's correlation by its kernel area, so that levels compare (ours); ``sum`` does not (SiamMask)."""
    base_head: bool = False
    """Also build SiamMask's 63x63 mask head; stage one of the two-stage baseline trains it."""


@dataclass(frozen=True)
class SamplerConfig:
    """Supervised sampling of candidate windows (paper 3.3)."""

    policy: str = "supervised"
    """``supervised``: a fixed number per image (paper 3.3); ``all_positive``: all cells of drawn positive anchors (SiamMask)."""
    samples_per_image: int = 4
    """K, paper 3.3."""
    positives_per_image: int = 3
    """Of the K samples, paper 3.3 (3:1)."""
    high: float = 0.6
    """A cell is positive if any of its anchors has a larger IoU (threshold: paper 4.1; "any anchor": inferred)."""
    low: float = 0.3
    """A cell is negative if all its anchors have a smaller IoU (threshold: paper 4.1; "all anchors": inferred)."""
    anchor_positives: int = 16
    """Anchors per image that train the classifier as positives, at most (SiamMask)."""
    anchor_total: int = 64
    """Anchors per image that train the classifier (SiamMask)."""


@dataclass(frozen=True)
class LossConfig:
    """Equation 3 and its three terms."""

    cls_weight: float = 1.0
    loc_weight: float = 1.0
    mask_weight: float = 32.0
    """Weights of equation 3 (paper 3.2). SiamMask's code has 1, 1.2, 36."""
    loc: str = "smooth_l1"
    """``smooth_l1`` (paper 3.2) or ``l1`` (SiamMask's code)."""
    loc_beta: float = 1.0
    """Where smooth L1 turns linear, in units of the encoded offsets (torch's default)."""
    negatives: str = "zero"
    """What a negative sample contributes: ``zero`` (equation 4 literally) or ``background`` (ours: all pixels -1, weight 1)."""


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training pair; pixels are pixels of the crop (SiamMask's values unless said)."""

    template_shift: float = 4.0
    template_scale: float = 0.05
    search_shift: float = 64.0
    search_scale: float = 0.18
    search_zoom: float = 0.0
    """Change of the search crop's size as a whole, up to this factor more or less: with x and y scaled apart alone, sizes hardly
    vary and a network of few pairs learns to ignore them (ours)."""
    blur: float = 0.18
    grey: float = 0.25
    flip: float = 0.5
    """Ours; SiamMask's flip is off."""
    colour: float = 0.2
    """Strength of brightness, contrast and saturation changes, drawn apart for template and search (ours)."""
    rotation: float = 0.0
    """Largest rotation in degrees between template and search of a *still* image (ours)."""
    new_background: float = 0.0
    """Probability that a still image's object is pasted onto another image as search (ours: synthetic motion)."""


@dataclass(frozen=True)
class TrainSetConfig:
    """One source of training pairs."""

    kind: str
    """``davis``, ``coco``, ``youtube_vos``, ``imagenet_vid``, ``mask_folder`` or ``synthetic``."""
    path: tuple[str, ...]
    """Folder below the data root; of several the first that exists."""
    weight: float = 1.0
    """Share of the pairs drawn from this set, relative to the others."""
    frame_range: int = 1
    """Largest distance between template and search, in annotated frames (SiamMask)."""
    year: int = 2016
    split: str = "train"
    images: str = "images"
    annotations: str = "annotations.json"
    min_area: float = 1000.0
    """Objects with fewer pixels are left out and counted (SiamMask: 1000 for YouTube-VOS)."""
    hold_out: tuple[str, ...] = ()
    """Sequences kept out of training so that choices can be made on them."""


@dataclass(frozen=True)
class EvalSetConfig:
    """One benchmark."""

    name: str
    kind: str
    path: tuple[str, ...]
    year: int = 2016
    split: str = "val"
    sequences: tuple[str, ...] = ()
    """Only these; empty: all of the split."""


@dataclass(frozen=True)
class DataConfig:
    root: str = ""
    """Folder that holds all sets; the command line's ``--data`` or ``E3SN_DATA`` fill it in."""
    train: tuple[TrainSetConfig, ...] = ()
    evaluation: tuple[EvalSetConfig, ...] = ()
    negative_pairs: float = 0.2
    """Share of pairs whose search image shows another object (SiamMask)."""
    workers: int = 0
    """Processes that prepare pairs; the pairs do not depend on it."""


@dataclass(frozen=True)
class StageConfig:
    """One training stage. E3SN has one (paper: end to end), SiamMask two."""

    share: float = 1.0
    """Of the run's pairs."""
    mask: str = "refine"
    """Which mask head is trained: ``refine`` or ``base`` (63x63)."""
    search_size: int = 255
    """Pixels (paper 4.1); SiamMask's second stage uses 143."""
    search_shift: float = -1.0
    """Overrides ``augment.search_shift`` where it is not negative."""
    negative_pairs: float = -1.0
    """Overrides ``data.negative_pairs`` where it is not negative."""
    train_location: bool = True
    """False freezes backbone, neck and RPN and leaves out their losses (SiamMask's second stage)."""
    lr: tuple[float, ...] = ()
    """First and last learning rate; empty: those of ``train.lr``."""
    warmup: float = -1.0
    """Overrides ``train.warmup`` where it is not negative."""
    sets: dict[str, float] = field(default_factory=dict)
    """Weights of training sets by kind, in place of their own in this stage; 0 leaves a set out."""


@dataclass(frozen=True)
class TrainConfig:
    pairs: int = 12_000_000
    """Image pairs of the whole run (SiamMask: 20 epochs of 600k; the paper does not say)."""
    batch_size: int = 64
    """Pairs of a step, over all processes (SiamMask)."""
    accumulate: int = 1
    """Parts in which a process computes its share of a batch, one after another, to save memory; batch-norm sees each by itself."""
    optimiser: str = "sgd"
    """``sgd`` (paper 4.1) or ``adamw`` (ours)."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lr: tuple[float, ...] = (2e-3, 2e-4)
    """First and last rate of the logarithmic decay (paper 4.1)."""
    warmup: float = 0.0
    """Share of the steps with a rising rate: linearly (ours) or, with ``epochs``, by epoch from a fifth (SiamMask). Paper: none."""
    epochs: int = 20
    """The rate changes once an epoch (paper 4.1); 0: every step."""
    mask_lr: float = 0.1
    """Multiplier for mask correlation, fusion weights and refinement (paper 4.1)."""
    backbone_lr: float = 0.1
    """Multiplier for trainable backbone layers (SiamMask)."""
    unfreeze_at: float = 0.5
    """Share of the steps after which ``train_layers`` of the backbone are trained (SiamMask: epoch 10 of 20)."""
    train_layers: tuple[str, ...] = ("layer2", "layer3")
    """Backbone layers that are ever trained (SiamMask); their batch-norm statistics stay as they are."""
    train_shortcuts: bool = True
    """False leaves the 3x3 shortcuts of layer2 and layer3 the 1x1 ones that ImageNet weights put in their centre (ours: faster)."""
    clip: float = 10.0
    """Largest gradient norm, for each parameter group by itself (value: SiamMask; by group: ours)."""
    precision: str = "auto"
    """``fp32``, ``bf16``, ``fp16`` (CUDA), or ``auto``: the fastest this device computes natively."""
    average: float = 0.0
    """Decay of an exponential moving average of the weights, smaller in each stage's first steps; 0: none (ours)."""
    weights: str = "torchvision"
    """Initial backbone: ``torchvision`` (ImageNet, downloaded), ``none``, or a safetensors file below the data root."""
    log_every: int = 20
    checkpoint_every: int = 500
    """Both in steps."""
    tensorboard: bool = False
    """Also write the log for TensorBoard."""


@dataclass(frozen=True)
class TrackConfig:
    """Inference (SiamMask's DAVIS values unless said)."""

    penalty_k: float = 0.04
    window_influence: float = 0.40
    size_lr: float = 1.0
    mask_threshold: float = 0.5
    """Paper 4.1; SiamMask's DAVIS setting is 0.35."""
    score: str = "penalised"
    """Which score is maximised: ``penalised`` and windowed (SiamMask) or ``raw`` (the paper's words in 4.1)."""
    crop: str = "exact"
    """``exact`` keeps crop and paste-back registered; ``siammask`` repeats the public code's rounding, for its checkpoints."""


@dataclass(frozen=True)
class StudyConfig:
    """Which runs a study makes beside the main one (ours); no run depends on it."""

    comparison: tuple[str, ...] = ()
    """Settings ``key=value`` of the runs that are compared with each other (Tables 3 and 4), on equal budgets; none: as the main
    run's."""
    seeds: int = 1
    """Compared runs of each network, with one seed after the other."""
    ablation: tuple[str, ...] = ()
    """Settings of the ablations' runs, which have one seed each; none: no ablations are made."""


@dataclass(frozen=True)
class Profile:
    """Everything that determines a run."""

    name: str
    variant: str
    seed: int = 0
    title: str = ""
    """One line for headings: what the numbers of this profile mean."""
    minutes: float = 0.0
    """Expected time of the whole study on the hardware the title names; 0: not known."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    stages: dict[str, StageConfig] = field(default_factory=dict)
    track: TrackConfig = field(default_factory=TrackConfig)
    study: StudyConfig = field(default_factory=StudyConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, strings and numbers; `profile_from_dict` is its inverse."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def available_profiles() -> list[str]:
    return sorted(path.stem for path in PROFILE_DIR.glob("*.yaml") if path.stem != "variants")


def available_variants() -> list[str]:
    return list(_read_yaml(PROFILE_DIR / "variants.yaml"))


def load_profile(
    name: str,
    variant: str = "e3sn",
    overrides: Iterable[str] = (),
    *,
    seed: int = 0,
    data_root: str | Path = "",
) -> Profile:
    """Build a profile: defaults, then the variant, then the profile's file, then ``key=value`` overrides.

    Args:
        name: a shipped profile (``smoke``, ``cpu``, ``paper``) or the path of a YAML file.
        variant: ``e3sn``, ``e3sn-s`` or ``siammask``.
        overrides: ``"train.pairs=1000"``; values are read as YAML.
        seed: of the run.
        data_root: replaces ``data.root`` unless empty.

    Raises:
        InputError: unknown profile, variant or key, or a value of the wrong type.
    """
    variants = _read_yaml(PROFILE_DIR / "variants.yaml")
    if variant not in variants:
        raise InputError(f"unknown variant '{variant}'{_suggest(variant, variants)}; there are {', '.join(variants)}")
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else PROFILE_DIR / f"{name}.yaml"
    if not path.is_file() or path.stem == "variants":
        known = available_profiles()
        raise InputError(f"unknown profile '{name}'{_suggest(name, known)}; there are {', '.join(known)}, or give a .yaml file")
    settings = _read_yaml(path)
    by_variant = settings.pop("variants", {})
    if not isinstance(by_variant, dict) or not all(isinstance(value, dict) for value in by_variant.values()):
        raise InputError(f"{path.name}: 'variants' must hold settings by variant, such as siammask: {{train: {{pairs: 1000}}}}")
    if unknown := set(by_variant) - set(variants):
        raise InputError(f"{path.name}: settings for unknown variant '{min(unknown)}'{_suggest(min(unknown), variants)}")
    merged = _merge(_merge(variants[variant], settings), by_variant.get(variant, {}))
    for text in overrides:
        merged = _merge(merged, _parse_override(text))
    stages = variants[variant]["stages"]
    if unknown := set(merged["stages"]) - set(stages):
        raise InputError(
            f"variant {variant} has no stage '{min(unknown)}'{_suggest(min(unknown), stages)}; there are {', '.join(stages)}"
        )
    merged = _merge(merged, {"name": path.stem, "variant": variant, "seed": seed})
    if data_root:
        merged = _merge(merged, {"data": {"root": str(data_root)}})
    return profile_from_dict(merged)


def profile_from_dict(settings: Mapping[str, Any]) -> Profile:
    """The inverse of `Profile.to_dict`; raises InputError for unknown keys and wrong types."""
    profile = _build(Profile, settings, "")
    _check(profile)
    return profile


def training_settings(profile: Profile) -> dict[str, Any]:
    """What determines a run's weights: settings that differ from their defaults, without those that only say where or how fast.

    A field that is added later with a default does not change the name of an older run.
    """
    settings = _differences(profile)
    for path in (
        "title",
        "minutes",
        "track",
        "study",
        "data.root",
        "data.workers",
        "data.evaluation",
        "train.log_every",
        "train.checkpoint_every",
        "train.tensorboard",
    ):
        section, _, key = path.rpartition(".")
        (settings.get(section, {}) if section else settings).pop(key, None)
    for stage in settings.get("stages", {}).values():  # listed whole, unlike other sections
        for key in ("warmup", "sets"):
            if stage[key] == getattr(StageConfig(), key):
                del stage[key]
    return settings


def _differences(config: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, as plain values."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.default_factory is not dataclasses.MISSING and dataclasses.is_dataclass(value):
            found[item.name] = _differences(value)
        elif value != item.default:
            found[item.name] = dataclasses.asdict(config)[item.name]
    return json.loads(json.dumps({key: value for key, value in found.items() if value != {}}))


def config_hash(settings: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that do not depend on the order of keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


_CHOICES = {
    "model.backbone": ("resnet50", "resnet18"),
    "model.block_layout": ("v1.5", "v1"),
    "model.fusion": ("softmax", "raw", "fixed"),
    "model.level_scale": ("mean", "sum"),
    "sampler.policy": ("supervised", "all_positive"),
    "loss.loc": ("smooth_l1", "l1"),
    "loss.negatives": ("zero", "background"),
    "train.optimiser": ("sgd", "adamw"),
    "train.precision": PRECISIONS,
    "track.score": ("penalised", "raw"),
    "track.crop": ("exact", "siammask"),
}


def _check(profile: Profile) -> None:
    for key, choices in _CHOICES.items():
        section, name = key.split(".")
        value = getattr(getattr(profile, section), name)
        if value not in choices:
            raise InputError(f"{key} is '{value}'{_suggest(value, choices)}; it can be {', '.join(choices)}")
    if not profile.model.levels or not set(profile.model.levels) <= {2, 3, 4}:
        raise InputError(f"model.levels is {list(profile.model.levels)}; it must name some of 2, 3, 4")
    at_least_one = ("pairs", "batch_size", "accumulate", "log_every", "checkpoint_every")
    for key in (*(f"train.{name}" for name in at_least_one), "sampler.anchor_total"):
        section, name = key.split(".")
        if getattr(getattr(profile, section), name) < 1:
            raise InputError(f"{key} is {getattr(getattr(profile, section), name)}; it must be at least 1")
    if profile.study.seeds < 1:
        raise InputError(f"study.seeds is {profile.study.seeds}; it must be at least 1")
    if not 0 < profile.sampler.positives_per_image <= profile.sampler.samples_per_image:
        raise InputError("sampler.positives_per_image must be at least 1 and at most sampler.samples_per_image")
    for name, stage in profile.stages.items():
        if stage.mask not in ("refine", "base"):
            raise InputError(f"stages.{name}.mask is '{stage.mask}'; it can be refine, base")
        if len(stage.lr or profile.train.lr) != 2:
            raise InputError(f"stages.{name}: a learning rate is two numbers, first and last")
        kinds = {each.kind for each in profile.data.train}
        if unknown := set(stage.sets) - kinds:
            raise InputError(
                f"stages.{name}.sets names '{min(unknown)}'{_suggest(min(unknown), kinds)}; data.train has no such set"
            )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings (key: value)")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"'{text}' is not of the form key=value, such as train.pairs=1000")
    if key.partition(".")[0] in ("name", "variant", "seed"):
        raise InputError(f"'{text}': {key} is no setting but an argument of its own")
    try:
        tree: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"'{text}': the value cannot be read as YAML") from error
    for part in reversed(key.strip().split(".")):
        tree = {part: tree}
    return tree


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _build(kind: Any, value: Any, where: str) -> Any:
    """Convert plain YAML values to `kind`, a dataclass, tuple, dict or scalar type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a set of key: value settings, not {value!r}")
        hints = typing.get_type_hints(kind)
        for key in value:
            if key not in hints:
                raise InputError(f"unknown setting '{where}{'.' if where else ''}{key}'{_suggest(key, hints)}")
        built = {key: _build(hints[key], item, f"{where}{'.' if where else ''}{key}") for key, item in value.items()}
        try:
            return kind(**built)  # type: ignore[operator]
        except TypeError as error:
            raise InputError(f"{where or 'profile'}: {error}") from error
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_build(args[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a set of key: value settings, not {value!r}")
        return {str(key): _build(args[1], item, f"{where}.{key}") for key, item in value.items()}
    return _scalar(kind, value, where)


def _scalar(kind: type | types.UnionType, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as a string
        except ValueError:
            pass
    elif type(value) is kind:
        return value
    raise InputError(f"{where} must be of type {getattr(kind, '__name__', kind)}, not {value!r}")
