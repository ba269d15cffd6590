"""Settings of the study: frozen dataclasses, which `e3sn_lib.profiles.loading` fills from ``profiles/*.yaml``.

A *profile* (smoke, cpu, paper) says how much data and time is spent, a *variant* (e3sn, e3sn-s, siammask) which network is
built and in how many stages it is trained. Each field says where its default comes from: *paper* with its section, *SiamMask*
(the public code), *inferred* from either, or *ours*.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
"""What the network can be computed in, see `e3sn_lib.model.device`."""


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
    """Objects with fewer pixels teach nothing (SiamMask: 1000 for YouTube-VOS); of ImageNet-VID, boxes only, all do."""
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
