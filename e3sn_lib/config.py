"""Settings of the study: frozen pydantic dataclasses that check their values when they are made.

`e3sn_lib.profiles.loading` fills them from ``profiles/*.yaml``. A *profile* (smoke, cpu, long,
paper) says how much data and time a study uses. A *variant* (e3sn, e3sn-s, siammask) says which
network is built and how it is trained. The text below a field says where its default comes from:
*paper* with its section, *SiamMask* (the public code), *inferred* from one of them, or *ours*.
"""

import dataclasses
import json
import os
from dataclasses import field
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict, model_validator
from pydantic.dataclasses import dataclass

from e3sn_lib.errors import did_you_mean

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
TrainKind = Literal[
    "davis", "coco", "youtube_vos", "imagenet_vid", "box_folder", "mask_folder", "synthetic"
]
EvalKind = Literal["davis", "synthetic"]
Layer = Literal["stem", "layer1", "layer2", "layer3"]
Level = Literal[2, 3, 4]


def _listed(value: Any) -> Any:
    """Read a single value as a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _each_once(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(value)) < len(value):
        raise ValueError("it must name each only once")
    return value


def _none_or_two(value: tuple[float, ...]) -> tuple[float, ...]:
    if len(value) not in (0, 2):
        raise ValueError("a learning rate is two numbers, first and last")
    return value


def _name(value: str) -> str:
    if not value or value.startswith(".") or "/" in value or "\\" in value:
        raise ValueError("it must be a name that can be part of a file name")
    return value


def _below(value: str) -> str:
    if not value or PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts:
        raise ValueError("it must be a relative path without '..'")
    return value


# Kinds of values. "Strict" refuses what pydantic would convert: true for 1, "0.5" for 0.5.
Count = Annotated[int, Strict(), Field(ge=1, le=10**12)]
Factor = Annotated[float, Strict(), Field(ge=0, le=1e6)]
Positive = Annotated[float, Strict(), Field(gt=0, le=1e6)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
BelowOne = Annotated[float, Strict(), Field(ge=0, lt=1)]
Pixels = Annotated[float, Strict(), Field(ge=0, le=255)]
Rate = Annotated[float, Strict(), Field(gt=0, le=10)]
Switch = Annotated[bool, Strict()]
Text = Annotated[str, Strict(), Field(max_length=4000, pattern=r"^\P{Cc}*$")]
Name = Annotated[Text, Field(max_length=100), AfterValidator(_name)]
BelowRoot = Annotated[Text, AfterValidator(_below)]
Place = Annotated[Text, AfterValidator(os.path.expanduser)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed)]
Folders = Annotated[tuple[BelowRoot, ...], BeforeValidator(_listed), Field(min_length=1)]
Levels = Annotated[tuple[Level, ...], BeforeValidator(_listed), AfterValidator(_each_once)]
Layers = Annotated[tuple[Layer, ...], BeforeValidator(_listed), AfterValidator(_each_once)]
Rates = Annotated[tuple[Rate, ...], BeforeValidator(_listed), AfterValidator(_none_or_two)]
# older files hold -1 where a setting is not set
_NOT_SET = BeforeValidator(lambda value: None if value == -1 else value)

_CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False, defer_build=True)  # built at first use


@dataclass(frozen=True, config=_CHECKED)
class ModelConfig:
    """The network; see `e3sn_lib.model.network.build_model`."""

    backbone: Literal["resnet50", "resnet18"] = "resnet50"
    """``resnet50`` (paper 3.2) or ``resnet18`` (ours, for the smoke profile)."""
    block_layout: Literal["v1.5", "v1"] = "v1.5"
    """Fits weights with the stride of a bottleneck in the 3x3 (``v1.5``, SiamMask) or in the first
    1x1 (``v1``)."""
    channels: Annotated[Count, Field(le=4096)] = 256
    """Width of neck, correlation and heads (SiamMask)."""
    levels: Annotated[Levels, Field(min_length=1)] = (2, 3, 4)
    """Backbone levels that are fused for the mask (paper 3.4); (4,) is its "E3SN only S"."""
    fusion: Literal["softmax", "raw", "fixed"] = "softmax"
    """Weights of the levels: ``softmax`` (inferred from SiamRPN++), ``raw`` scalars, ``fixed``."""
    level_scale: Literal["mean", "sum"] = "mean"
    """``mean`` divides a level by its kernel's area (ours), ``sum`` does not (SiamMask)."""
    base_head: Switch = False
    """Build the 63x63 mask head too, which SiamMask trains in its first stage."""


@dataclass(frozen=True, config=_CHECKED)
class SamplerConfig:
    """Supervised sampling of candidate windows (paper 3.3)."""

    policy: Literal["supervised", "all_positive"] = "supervised"
    """``supervised``: a fixed number per image (paper 3.3); ``all_positive``: all cells of drawn
    positive anchors (SiamMask)."""
    samples_per_image: Annotated[Count, Field(le=625)] = 4
    """K (paper 3.3); a search crop of 255 px has 625 windows."""
    positives_per_image: Count = 3
    """How many of the K samples are positive (paper 3.3: 3 to 1)."""
    high: Share = 0.6
    """A cell is positive if one of its anchors has a larger IoU (paper 4.1; "one": inferred)."""
    low: Share = 0.3
    """A cell is negative if all its anchors have a smaller IoU (paper 4.1; "all": inferred)."""
    anchor_positives: Count = 16
    """Largest number of anchors per image that train the classifier as positives (SiamMask). The
    same limit holds for negatives on look-alikes, for negatives in a negative pair, and for the
    cells of ``all_positive``."""
    anchor_total: Count = 64
    """Largest number of anchors per image that train the classifier, except in negative pairs
    (SiamMask)."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for less, more in (
            ("positives_per_image", "samples_per_image"),
            ("anchor_positives", "anchor_total"),
            ("low", "high"),
        ):
            value, limit = getattr(self, less), getattr(self, more)
            if value > limit:
                raise ValueError(f"{less} is {value}; it must be at most sampler.{more}, {limit}")
        return self


@dataclass(frozen=True, config=_CHECKED)
class LossConfig:
    """Equation 3 and its three terms."""

    cls_weight: Factor = 1.0
    loc_weight: Factor = 1.0
    mask_weight: Factor = 32.0
    """Weights of equation 3 (paper 3.2). SiamMask's code has 1, 1.2, 36."""
    loc: Literal["smooth_l1", "l1"] = "smooth_l1"
    """``smooth_l1`` (paper 3.2) or ``l1`` (SiamMask's code)."""
    loc_beta: Factor = 1.0
    """Offset from which smooth L1 is linear, in units of the encoded offsets (torch's default)."""
    negatives: Literal["zero", "background"] = "zero"
    """A negative sample adds nothing to the mask loss (equation 4) or is all background (ours)."""


@dataclass(frozen=True, config=_CHECKED)
class AugmentConfig:
    """Random changes of a training pair; SiamMask's if no source is named.

    Shifts are largest moves in crop pixels per axis, scales largest changes of width and height as
    shares. blur, grey and flip are probabilities; only search crops are blurred.
    """

    template_shift: Pixels = 4.0
    template_scale: BelowOne = 0.05
    search_shift: Pixels = 64.0
    search_scale: BelowOne = 0.18
    search_zoom: Annotated[Factor, Field(le=10)] = 0.0
    """Largest change of the object's size in the search crop: 0.3 is up to 1.3 times (ours)."""
    blur: Share = 0.18
    grey: Share = 0.25
    flip: Share = 0.5
    """Ours; SiamMask's flip is off."""
    colour: Share = 0.2
    """Strength of changes of brightness, contrast, saturation and tint of each crop (ours)."""
    rotation: Annotated[Factor, Field(le=180)] = 0.0
    """Largest rotation in degrees between template and search of a still with a mask (ours)."""
    new_background: Share = 0.0
    """Probability that the object of a still image gets the background of another image in the
    search crop, if it has a mask. With `distractor`, never if its image shows others of its
    category (ours)."""
    moved: Share = 0.0
    """Probability that an object has moved over its own background in the search crop, if it has a
    mask and the image does not cut it. It then gets no other background, and some of the negative
    anchors lie on its old place (ours)."""
    distractor: Share = 0.0
    """Probability that a second object is pasted beside the target or partly in front of it, if
    both have masks. Above 0, some of the negative anchors lie on such objects, pasted or real
    (ours)."""
    negative_alike: Share = 0.0
    """Share of the negative pairs that show another object of the same set and category (ours)."""


@dataclass(frozen=True, config=_CHECKED)
class TrainSetConfig:
    """One source of training pairs."""

    kind: TrainKind
    path: Folders
    """Folders below the data root; the first that holds a whole set is used."""
    weight: Factor = 1.0
    """Share of the pairs, relative to the other sets."""
    frame_range: Count = 1
    """Largest distance between template and search, in annotated frames (SiamMask)."""
    year: Literal[2016, 2017] = 2016
    split: BelowRoot = "train"
    images: BelowRoot = "images"
    masks: BelowRoot = "masks"
    """Folder of the masks of a ``mask_folder``."""
    mask_suffix: Text = ""
    """Text at the end of a mask's name, after its image's name (Penn-Fudan: ``_mask``)."""
    mask_kind: Literal["binary", "trimap", "ids"] = "binary"
    """Pixels above 127 are the object (``binary``), one object per value above 0 (``ids``), or 1
    object, 2 background, 3 border, which is halved (``trimap``: Oxford-IIIT Pet)."""
    annotations: BelowRoot = "annotations.json"
    min_area: Annotated[Factor, Field(le=1e9)] = 1000.0
    """Smallest object in pixels; not for sets without masks (SiamMask, for YouTube-VOS)."""
    hold_out: Texts = ()
    """Sequences that are kept out of training, so that choices can be made on them."""
    hold_out_share: BelowOne = 0.0
    """Share of a ``coco`` set's images that are kept out of training, to measure on them (ours)."""

    @model_validator(mode="after")
    def _can_hold_out(self) -> Self:
        if self.hold_out and self.kind not in get_args(EvalKind):
            raise ValueError(f"hold_out needs sequences; a {self.kind} set has none")
        if self.hold_out_share and self.kind != "coco":
            raise ValueError("hold_out_share works for coco sets only")
        return self


@dataclass(frozen=True, config=_CHECKED)
class EvalSetConfig:
    """One benchmark."""

    name: Name
    kind: EvalKind
    path: Folders
    year: Literal[2016, 2017] = 2016
    split: BelowRoot = "val"
    sequences: Texts = ()
    """Only these sequences; empty: all of the split."""


@dataclass(frozen=True, config=_CHECKED)
class DataConfig:
    """Where the data are, and how pairs are drawn from them."""

    root: Place = ""
    """Folder that holds all sets; replaced by ``--data`` or the environment's ``E3SN_DATA``."""
    train: Annotated[tuple[TrainSetConfig, ...], BeforeValidator(_listed)] = ()
    evaluation: Annotated[tuple[EvalSetConfig, ...], BeforeValidator(_listed)] = ()
    negative_pairs: Share = 0.2
    """Share of pairs whose search crop shows another object (SiamMask)."""
    workers: Annotated[int, Strict(), Field(ge=0, le=64)] = 0
    """Processes that prepare pairs. The pairs do not depend on their number."""

    @property
    def is_synthetic(self) -> bool:
        """Whether any training set or benchmark is procedural."""
        kinds = [each.kind for each in self.train] + [each.kind for each in self.evaluation]
        return "synthetic" in kinds

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> Self:
        names = [each.name for each in self.evaluation]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"evaluation has two benchmarks '{twice}'; rename one")
        return self


@dataclass(frozen=True, config=_CHECKED)
class StageConfig:
    """One training stage. E3SN has one (paper: end to end), SiamMask has two."""

    share: Annotated[Share, Field(gt=0)] = 1.0
    """Share of the run's pairs; the shares of all stages add up to 1."""
    mask: Literal["refine", "base"] = "refine"
    """Which mask head is trained: ``refine`` or ``base`` (63x63)."""
    search_size: Literal[255, 143] = 255
    """Pixels (paper 4.1); SiamMask's second stage uses 143."""
    search_shift: Annotated[Pixels | None, _NOT_SET] = None
    """Replaces ``augment.search_shift`` unless None."""
    negative_pairs: Annotated[Share | None, _NOT_SET] = None
    """Replaces ``data.negative_pairs`` unless None."""
    train_location: Switch = True
    """False freezes backbone, neck and RPN and leaves out their losses (SiamMask's stage two)."""
    lr: Rates = ()
    """Replaces ``train.lr`` unless empty."""
    warmup: Annotated[Share | None, _NOT_SET] = None
    """Replaces ``train.warmup`` unless None."""
    sets: dict[str, Factor] = field(default_factory=dict)
    """Weights of training sets by kind, instead of their own; 0 leaves a set out."""


@dataclass(frozen=True, config=_CHECKED)
class TrainConfig:
    """How long, how fast and from where a network is trained."""

    pairs: Count = 12_000_000
    """Image pairs of the whole run (SiamMask: 20 epochs of 600k; the paper does not say)."""
    batch_size: Annotated[Count, Field(le=65_536)] = 64
    """Pairs of a step, summed over all processes (SiamMask)."""
    accumulate: Count = 1
    """Parts into which a process divides its share of a batch; each has its own batch-norm
    statistics."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """``sgd`` (paper 4.1) or ``adamw`` (ours)."""
    momentum: BelowOne = 0.9
    weight_decay: Share = 1e-4
    lr: Annotated[Rates, Field(min_length=1)] = (2e-3, 2e-4)
    """First and last rate of the logarithmic decay (paper 4.1)."""
    warmup: Share = 0.0
    """Share of a stage's steps in which the rate rises: linearly (ours) or, with ``epochs``, once
    an epoch, from a fifth (SiamMask). Paper: none."""
    epochs: Annotated[int, Strict(), Field(ge=0, le=10**6)] = 20
    """Epochs of each stage. The rate changes once an epoch (SiamMask; paper 4.1: "in 20 epochs");
    0: at every step."""
    mask_lr: Factor = 0.1
    """Factor on the rate of mask correlation, fusion weights and refinement (paper 4.1)."""
    backbone_lr: Factor = 0.1
    """Factor on the rate of trainable backbone layers (SiamMask)."""
    unfreeze_at: Share = 0.5
    """Share of a stage's steps after which ``train_layers`` are trained (SiamMask: 10 of 20
    epochs)."""
    train_layers: Layers = ("layer2", "layer3")
    """Backbone layers that are trained, without their batch-norm statistics (SiamMask)."""
    train_shortcuts: Switch = True
    """False: the 3x3 shortcuts of layer2 and layer3 stay ImageNet's 1x1 ones (ours: faster)."""
    clip: Positive = 10.0
    """Largest norm of the gradient of each parameter group (value: SiamMask; by group: ours)."""
    precision: Precision = "auto"
    """``fp32``, ``bf16``, ``fp16`` (CUDA), or ``auto``: the fastest that is native here."""
    average: BelowOne = 0.0
    """Decay of an exponential moving average of the weights; 0: no average (ours)."""
    weights: Annotated[Place, Field(min_length=1)] = "torchvision"
    """First backbone weights: ``torchvision`` (ImageNet, downloaded), ``none``, or a file."""
    init_weights: Place = ""
    """A model of this project from which the whole network starts; empty: none (ours)."""
    init_sha256: Text = ""
    """The first 12 digits of that file's SHA-256; empty: filled in when training starts."""
    backup: Place = ""
    """A second folder for each checkpoint; a run that lost its own folder continues from there."""
    log_every: Count = 20
    checkpoint_every: Count = 500
    """Both in steps."""
    tensorboard: Switch = False
    """Write the log for TensorBoard too."""


@dataclass(frozen=True, config=_CHECKED)
class TrackConfig:
    """Inference. Values are those of SiamMask's DAVIS evaluation unless another source is named."""

    penalty_k: Factor = 0.04
    """How much a change of size or shape lowers the score of an anchor; 0: not at all."""
    window_influence: Share = 0.40
    """Share of the cosine window, which favours the middle, in the rank of an anchor."""
    size_lr: Share = 1.0
    """Share of the predicted size in the new size, times penalty and score."""
    mask_threshold: Annotated[BelowOne, Field(gt=0)] = 0.5
    """Paper 4.1; SiamMask's DAVIS evaluation has 0.35."""
    score: Literal["penalised", "raw"] = "penalised"
    """Score that chooses the cell: ``penalised`` and windowed (SiamMask) or ``raw`` (paper 4.1)."""
    crop: Literal["exact", "siammask"] = "exact"
    """``siammask`` rounds as the public code does, for its checkpoints; ``exact`` does not."""


@dataclass(frozen=True, config=_CHECKED)
class StudyConfig:
    """Which runs a study makes beside the main one (ours). No run depends on it."""

    main: Text = ""
    """The main run: folder of a finished run, or model of a recorded run; empty: train it."""
    recorded: Switch = False
    """True: recorded runs are not trained again, even if their networks are not here."""
    comparison: Texts = ()
    """Settings ``key=value`` of the runs of Tables 3 and 4; empty: those of the main run."""
    seeds: Annotated[Count, Field(le=100)] = 1
    """Number of these runs for each network; each has another seed."""
    on_top: Switch = False
    """True: also compare with a SiamMask whose first stage alone sees as many pairs as the other
    networks. Its second stage comes on top, as in SiamMask's public code."""
    ablation: Texts = ()
    """Settings of the ablations' runs; empty: no ablations are made."""
    ablation_seeds: Annotated[Count, Field(le=100)] = 1
    """Number of these runs for each changed setting; each has another seed."""


@dataclass(frozen=True, config=_CHECKED)
class Profile:
    """Everything that determines a run."""

    name: Name
    variant: Name
    seed: Annotated[int, Strict(), Field(ge=0, le=2**32 - 1)] = 0
    title: Text = ""
    """One line for headings: what the numbers of this profile mean."""
    minutes: Factor = 0.0
    """Expected time of the whole study on the title's hardware; 0: not known."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    stages: Annotated[dict[Text, StageConfig], Field(min_length=1)] = field(
        default_factory=lambda: {"end_to_end": StageConfig()}
    )
    track: TrackConfig = field(default_factory=TrackConfig)
    study: StudyConfig = field(default_factory=StudyConfig)

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        kinds = {each.kind for each in self.data.train}
        for name, stage in self.stages.items():
            if stage.mask == "base" and not self.model.base_head:
                raise ValueError(f"stages.{name}.mask is 'base'; this needs model.base_head=true")
            if stage.train_location and stage.search_size != 255:
                fault = f"stages.{name}.search_size is {stage.search_size}"
                raise ValueError(f"{fault}; this needs stages.{name}.train_location=false")
            if unknown := sorted(set(stage.sets) - kinds):
                fault = f"stages.{name}.sets names {unknown[0]!r}{did_you_mean(unknown[0], kinds)}"
                raise ValueError(f"{fault}; data.train has no such set")
        total = sum(stage.share for stage in self.stages.values())
        if abs(total - 1) > 1e-6:
            keys = ", ".join(f"stages.{name}.share" for name in self.stages)
            raise ValueError(f"{keys}: the sum is {total:g}; it must be 1")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, strings and numbers; `profile_from_dict` is the inverse."""
        return json.loads(json.dumps(dataclasses.asdict(self)))
