"""torchvision's ResNet up to conv4, in SiamMask's geometry.

Its total stride is 8. It has no padding where padding would shift the grid of features.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

CHANNELS = {"resnet50": (64, 256, 512, 1024), "resnet18": (64, 64, 128, 256)}
"""Of p0, p1, p2, p3."""


class Features(NamedTuple):
    """Outputs of the four stages, shallow to deep.

    Rows and columns for an input of 127 / 143 / 255 pixels are 61 / 69 / 125 in p0 (stride 2),
    31 / 35 / 63 in p1 (stride 4), and 15 / 17 / 31 in p2 and p3 (stride 8). Index k of p0, p1, p2
    and p3 is centred on input pixel 2k+3, 4k+3, 8k+7 and 8k+7.
    """

    p0: Tensor
    p1: Tensor
    p2: Tensor
    p3: Tensor


class Shortcut(nn.Conv2d):
    """A 3x3 shortcut that is computed as 1x1 while all but the centre of its kernel is zero.

    ImageNet weights are like this. Computed as 3x3, layer3's shortcut alone would be a third of the
    backbone's multiplications.
    """

    centre_only = False

    def forward(self, features: Tensor) -> Tensor:
        """Return the shortcut's output for features (B, C, H, W)."""
        if not self.centre_only:
            return super().forward(features)
        # an unpadded 3x3 kernel of stride 2 is centred on the odd rows and columns
        rows = slice(1, -1, 2) if self.stride == (2, 2) else slice(None)
        return F.conv2d(features[..., rows, rows], self.weight[:, :, 1:2, 1:2], self.bias)


class Backbone(nn.Module):
    """ResNet-50 or ResNet-18 to conv4; parameter names are torchvision's.

    It differs from torchvision: the stem and the first 3x3 of layer2 have no padding, the shortcuts
    of layer2 and layer3 are 3x3, and layer3 has stride 1 and dilation 2. The `block_layout` of
    torchvision's weights is ``v1.5``. In ``v1`` the first 3x3 of layer2 and layer3 are dilated too,
    with a padding of 1 and 2.
    """

    def __init__(self, name: str = "resnet50", block_layout: str = "v1.5") -> None:
        super().__init__()
        resnet = getattr(torchvision.models, name)(weights=None)
        resnet.conv1.padding = (0, 0)
        self.conv1, self.bn1 = resnet.conv1, resnet.bn1
        self.relu, self.maxpool = resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3
        self.name, self.block_layout, self.channels = name, block_layout, CHANNELS[name]

        for layer, stride in ((self.layer2, 2), (self.layer3, 1)):
            first = layer[0]
            strided = first.conv2 if name == "resnet50" else first.conv1
            channels = first.downsample[0].in_channels, first.downsample[0].out_channels
            first.downsample[0] = Shortcut(*channels, 3, stride, 2 - stride, bias=False)
            strided.stride, strided.padding = (stride, stride), (2 - stride, 2 - stride)
            if block_layout == "v1":
                strided.dilation, strided.padding = (2, 2), (3 - stride, 3 - stride)
        for block in self.layer3[1:]:
            for module in block.modules():
                if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                    module.dilation, module.padding = (2, 2), (2, 2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Features:
        """Return the features of normalised RGB images (B, 3, S, S)."""
        p0 = self.relu(self.bn1(self.conv1(image)))
        p1 = self.layer1(self.maxpool(p0))
        p2 = self.layer2(p1)
        return Features(p0, p1, p2, self.layer3(p2))

    @property
    def shortcuts(self) -> list[Shortcut]:
        """The shortcuts of layer2 and layer3."""
        return [module for module in self.modules() if isinstance(module, Shortcut)]

    def skip_zero_taps(self) -> None:
        """Compute each shortcut as 1x1 if all but the centre of its kernel is zero now."""
        for shortcut in self.shortcuts:
            around = shortcut.weight.detach().clone()
            around[:, :, 1, 1] = 0
            shortcut.centre_only = not bool(around.any())

    def stage(self, name: str) -> nn.Module:
        """Return the modules of ``stem``, ``layer1``, ``layer2`` or ``layer3``."""
        return nn.ModuleList([self.conv1, self.bn1]) if name == "stem" else getattr(self, name)


def adapt_imagenet_weights(weights: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Any]:
    """Return ImageNet weights, in torchvision's names, for `backbone`.

    The 1x1 shortcuts go to the centre of the 3x3 ones, so main path and shortcut are centred on the
    same pixels. Layers after conv4 are dropped.
    """
    wanted = backbone.state_dict()
    adapted = {key: value for key, value in weights.items() if key in wanted}
    for key, value in adapted.items():
        if value.shape[2:] == (1, 1) and wanted[key].shape[2:] == (3, 3):
            adapted[key] = F.pad(value, (1, 1, 1, 1))
    for key, value in wanted.items():  # not every tool saves these counters
        if key.endswith("num_batches_tracked"):
            adapted.setdefault(key, torch.zeros_like(value))
    return adapted
