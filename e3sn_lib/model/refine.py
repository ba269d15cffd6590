"""The mask refinement pathway (paper 3.2, fig. 3; SiamMask's refinement module)."""

import torch.nn.functional as F
from torch import Tensor, nn

WINDOWS = {"p0": (61, 2), "p1": (31, 4), "p2": (15, 8)}
"""For each skip connection: rows and columns of a candidate window, and stride in search pixels."""


class Refinement(nn.Module):
    """From the fused correlation of a candidate window to its mask of 127 x 127 pixels.

    On the way, features of the search crop are added; `skips` are their channels in p0, p1, p2.
    """

    def __init__(self, channels: int, skips: tuple[int, int, int]) -> None:
        super().__init__()
        p0, p1, p2 = skips
        self.deconv = nn.ConvTranspose2d(channels, 32, 15, 15)
        self.v2, self.h2, self.post0 = _double(p2, 128, 32), _double(32, 32, 32), _conv(32, 16)
        self.v1, self.h1, self.post1 = _double(p1, 64, 16), _double(16, 16, 16), _conv(16, 4)
        self.v0, self.h0, self.post2 = _double(p0, 16, 4), _double(4, 4, 4), _conv(4, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)

    def forward(self, correlation: Tensor, p0: Tensor, p1: Tensor, p2: Tensor) -> Tensor:
        """Return the mask logits of N windows, (N, 127, 127), from the correlation (N, C) and the
        features of the search crop in each window; with ResNet-50 p0, p1 and p2 are
        (N, 64, 61, 61), (N, 256, 31, 31) and (N, 512, 15, 15)."""
        # the deconvolution of a 1x1 input is a matrix product
        deconv = self.deconv.weight.to(correlation.dtype)
        start = (correlation @ deconv.flatten(1)).reshape(-1, *deconv.shape[1:])
        assert self.deconv.bias is not None
        x = start + self.deconv.bias.to(start.dtype)[:, None, None]
        x = self.post0(F.interpolate(self.h2(x) + self.v2(p2), size=31))
        x = self.post1(F.interpolate(self.h1(x) + self.v1(p1), size=61))
        x = self.post2(F.interpolate(self.h0(x) + self.v0(p0), size=127))
        return x[:, 0]


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def _double(in_channels: int, middle: int, out_channels: int) -> nn.Sequential:
    first, second = _conv(in_channels, middle), _conv(middle, out_channels)
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))
