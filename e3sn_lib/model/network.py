"""The network: find the target, then segment it in candidate windows (paper 3.2, figure 2)."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from e3sn_lib.config import ModelConfig
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import ANCHOR_RATIOS, STRIDE, TEMPLATE_SIZE, WINDOW_MARGIN
from e3sn_lib.model.aggregation import LevelFusion
from e3sn_lib.model.backbone import Backbone, Features
from e3sn_lib.model.correlation import DepthwiseCorrelation, conv_bn, head
from e3sn_lib.model.refine import WINDOWS, Refinement
from e3sn_lib.model.windows import Cells, cut_windows

MARGIN = {255: WINDOW_MARGIN, 143: 0}
"""By size of the search crop: pixels that its first window reaches beyond it (SiamMask)."""
TEMPLATE_INSET = 32
"""Pixels from the edge of a window to its centre part, which is correlated with the template."""
LEVELS = {2: (4, 15), 3: (8, 7), 4: (8, 7)}
"""By level of the backbone: stride in search pixels; rows and columns of this centre part."""
BASE_MASK = 63
MASK_PRIOR = -2.0
"""First bias of the mask logits: 12 % of the pixels are object. With 0 the first steps push all
pixels to background so hard that the last ReLUs never become active again."""
RGB_MEAN = 255 * torch.tensor([0.485, 0.456, 0.406])
RGB_STD = 255 * torch.tensor([0.229, 0.224, 0.225])
"""Images are normalised with these (ImageNet)."""


class Template(NamedTuple):
    """The filters of each branch for B objects. The network itself has no state.

    They are (B, C, 5, 5), but those of level 2 are (B, C, 13, 13).
    """

    cls: Tensor
    loc: Tensor
    levels: tuple[Tensor, ...]

    def select(self, objects: list[int]) -> Self:
        """Return the filters of some of the objects."""
        levels = tuple(level[objects] for level in self.levels)
        return type(self)(self.cls[objects], self.loc[objects], levels)


class Search(NamedTuple):
    """Features of B search crops. Those of the neck are (B, C, 31, 31), for 143 px (B, C, 17, 17).
    The first window reaches `margin` pixels beyond the crop."""

    features: Features
    neck: Tensor
    margin: int


class Output(NamedTuple):
    """The results for a training step: class logits (B, 2, 5, n, n), box offsets (B, 4, 5, n, n),
    and mask logits of N windows, (N, 127, 127), or 63 px wide from the base head."""

    cls: Tensor
    loc: Tensor
    mask_logits: Tensor


def mask_cells(search_size: int) -> int:
    """Return the rows and columns of the grid of windows: 25 for a 255 px crop, 3 for 143."""
    return (search_size + 2 * MARGIN[search_size] - TEMPLATE_SIZE) // STRIDE + 1


class RegionProposal(nn.Module):
    """Predict class logits and box offsets of 5 anchors per cell from the correlation of conv4
    (SiamRPN++)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        anchors = len(ANCHOR_RATIOS)
        self.cls, self.cls_head = DepthwiseCorrelation(channels), head(channels, 2 * anchors)
        self.loc, self.loc_head = DepthwiseCorrelation(channels), head(channels, 4 * anchors)

    def forward(self, template: Template, neck: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (B, 2, 5, n, n) and box offsets (B, 4, 5, n, n), float32."""
        cls = self.cls_head(self.cls(template.cls, neck))
        loc = self.loc_head(self.loc(template.loc, neck))
        return cls.unflatten(1, (2, -1)).float(), loc.unflatten(1, (4, -1)).float()


class MaskCorrelation(nn.Module):
    """Correlate each level at the chosen cells and fuse the levels to one feature (paper 3.4).

    Only the part of the search features that a cell needs is correlated. The values are those of
    the whole correlation map, brought to the grid of the finest level, at that cell.
    """

    def __init__(self, config: ModelConfig, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.names = tuple(config.levels)
        self.adjust, self.levels = nn.ModuleDict(), nn.ModuleDict()
        for n in self.names:
            if n != 4:
                self.adjust[str(n)] = conv_bn(channels[n - 1], config.channels, 1, relu=False)
        for n in self.names:  # a second loop, so that a seed draws the same weights as ever
            self.levels[str(n)] = DepthwiseCorrelation(config.channels, config.level_scale)
        self.fusion = LevelFusion(len(self.names), config.fusion)

    def kernels(self, features: Features, neck: Tensor) -> tuple[Tensor, ...]:
        """Return the filters of each level from the centre of the template's features."""
        sources = _by_level(features, neck)
        return tuple(
            self._level(n).kernel(self._adjusted(n, centre_of(sources[n], LEVELS[n][1])))
            for n in self.names
        )

    def at_cells(self, template: Template, search: Search, cells: Cells) -> list[Tensor]:
        """Return one (N, C) tensor per level, for N cells."""
        margin, sources = search.margin - TEMPLATE_INSET, _by_level(search.features, search.neck)
        windows = [cut_windows(sources[n], cells, margin, *LEVELS[n]) for n in self.names]
        return self.at_windows([kernel[cells.image] for kernel in template.levels], windows)

    def at_windows(self, kernels: Sequence[Tensor], windows: Sequence[Tensor]) -> list[Tensor]:
        """Return one (N, C) tensor per level from N filters and windows of the level."""
        return [
            self._level(n).at_windows(kernel, self._adjusted(n, window))
            for n, kernel, window in zip(self.names, kernels, windows, strict=True)
        ]

    def whole_maps(self, template: Template, search: Search) -> list[Tensor]:
        """Return the whole correlation map of each level, (B, C, 49, 49) or (B, C, 25, 25)."""
        sources = _by_level(search.features, search.neck)
        return [
            self._level(n)(k, self._adjusted(n, sources[n]))
            for n, k in zip(self.names, template.levels, strict=True)
        ]

    def _level(self, level: int) -> DepthwiseCorrelation:
        return cast(DepthwiseCorrelation, self.levels[str(level)])

    def _adjusted(self, level: int, features: Tensor) -> Tensor:
        return self.adjust[str(level)](features) if level != 4 else features


def _by_level(features: Features, neck: Tensor) -> dict[int, Tensor]:
    """Return the features that are correlated, by level of the backbone."""
    return {2: features.p1, 3: features.p2, 4: neck}


class E3SN(nn.Module):
    """Map a template crop and a search crop to class logits, box offsets and masks of windows.

    Images are RGB, 0 to 255, (B, 3, 127, 127) and (B, 3, 255, 255).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone, config.block_layout)
        p0, p1, p2, p3 = self.backbone.channels
        self.neck = conv_bn(p3, config.channels, 1, relu=False)
        self.rpn = RegionProposal(config.channels)
        self.mask = MaskCorrelation(config, (p0, p1, p2, p3))
        self.base_head = head(config.channels, BASE_MASK**2) if config.base_head else None
        self.refine = Refinement(config.channels, (p0, p1, p2))
        for last in (self.refine.post2, *(self.base_head[-1:] if self.base_head else ())):
            nn.init.constant_(last.bias, MASK_PRIOR)
        self.register_buffer("mean", RGB_MEAN[:, None, None].clone(), persistent=False)
        self.register_buffer("std", RGB_STD[:, None, None].clone(), persistent=False)

    @property
    def device(self) -> torch.device:
        """The device on which the network is computed."""
        return self.mean.device

    def encode_template(self, image: Tensor) -> Template:
        """Return the filters of B objects from their template crops, (B, 3, 127, 127)."""
        features = self._features(image)
        neck = centre_of(self.neck(features.p3), 7)
        cls, loc = self.rpn.cls.kernel(neck), self.rpn.loc.kernel(neck)
        return Template(cls, loc, self.mask.kernels(features, neck))

    def encode_search(self, image: Tensor) -> Search:
        """Return the features of B search crops, (B, 3, S, S) with S of 255 or 143."""
        margin = MARGIN[int(image.shape[-1])]
        features = self._features(image)
        return Search(features, self.neck(features.p3), margin)

    def locate(self, template: Template, search: Search) -> tuple[Tensor, Tensor]:
        """Return class logits (B, 2, 5, n, n), background first, and box offsets (B, 4, 5, n, n):
        dx, dy, log w, log h. n is 25 for crops of 255 px."""
        return self.rpn(template, search.neck)

    def correlate(self, template: Template, search: Search, cells: Cells) -> Tensor:
        """Return the fused correlation of N windows, (N, C)."""
        return self.mask.fusion(self.mask.at_cells(template, search, cells))

    def segment(self, template: Template, search: Search, cells: Cells) -> Tensor:
        """Return the mask logits of N windows, (N, 127, 127) float32."""
        skips = [
            cut_windows(getattr(search.features, name), cells, search.margin, stride, size)
            for name, (size, stride) in WINDOWS.items()
        ]
        return self.refine(self.correlate(template, search, cells), *skips).float()

    def segment_base(self, template: Template, search: Search, cells: Cells) -> Tensor:
        """Return SiamMask's first logits (N, 63, 63) float32, from the correlation alone."""
        if self.base_head is None:
            raise InputError("this network has no base mask head; set model.base_head=true")
        correlation = self.correlate(template, search, cells)[:, :, None, None]
        alone = len(correlation) == 1
        if alone:  # in training, batch-norm refuses a single value per channel
            correlation = correlation.repeat(2, 1, 1, 1)
        logits = self.base_head(correlation).unflatten(1, (BASE_MASK, BASE_MASK))[..., 0, 0].float()
        return logits[:1] if alone else logits

    def forward(
        self, template_image: Tensor, search_image: Tensor, cells: Cells, mask: str = "refine"
    ) -> Output:
        """Return what a training step needs; `mask` is the mask head, ``refine`` or ``base``."""
        template, search = self.encode_template(template_image), self.encode_search(search_image)
        segment = self.segment if mask == "refine" else self.segment_base
        return Output(*self.locate(template, search), segment(template, search, cells))

    def _features(self, image: Tensor) -> Features:
        normalised = ((image.float() - self.mean) / self.std).to(self.backbone.conv1.weight.dtype)
        return self.backbone(normalised.contiguous(memory_format=torch.channels_last))


def centre_of(features: Tensor, size: int) -> Tensor:
    """Return the middle `size` rows and columns of a feature map."""
    start = (features.shape[-1] - size) // 2
    return features[..., start : start + size, start : start + size]


def build_model(config: ModelConfig) -> E3SN:
    """Return a network with random weights; see `e3sn_lib.model.weights.load_backbone`."""
    return E3SN(config).to(memory_format=torch.channels_last)


def fold_batchnorm(model: E3SN) -> E3SN:
    """Return a copy for inference: each batch-norm is folded into the convolution before it."""
    folded = copy.deepcopy(model).eval()
    for parent in folded.modules():
        for (name, layer), (next_name, following) in pairwise(list(parent.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(layer, following))
                setattr(parent, next_name, nn.Identity())
    folded.backbone.skip_zero_taps()
    return folded


def count_parameters(model: nn.Module) -> int:
    """Return the number of all parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
