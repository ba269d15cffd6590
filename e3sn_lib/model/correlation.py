"""Depth-wise cross-correlation of template and search features (SiamRPN++, SiamMask)."""

import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(in_channels: int, out_channels: int, kernel: int, relu: bool = True) -> nn.Sequential:
    """Return a convolution without padding and bias, batch-norm, and a ReLU if wanted."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, bias=False)
    layers: list[nn.Module] = [convolution, nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


def head(channels: int, out_channels: int) -> nn.Sequential:
    """Return two 1x1 convolutions for a correlation map."""
    return nn.Sequential(*conv_bn(channels, channels, 1), nn.Conv2d(channels, out_channels, 1))


class DepthwiseCorrelation(nn.Module):
    """Eq. 1: each channel of the template is a filter for the same channel of the search features.

    With the `scale` ``mean`` the filters are divided by their area, with ``sum`` they are not.
    """

    def __init__(self, channels: int, scale: str = "sum") -> None:
        super().__init__()
        self.scale = scale
        self.conv_kernel = conv_bn(channels, channels, 3)
        self.conv_search = conv_bn(channels, channels, 3)

    def kernel(self, template: Tensor) -> Tensor:
        """Turn template features (B, C, k+2, k+2) into filters (B, C, k, k)."""
        kernel: Tensor = self.conv_kernel(template)
        area = kernel.shape[-1] * kernel.shape[-2]
        return kernel / area if self.scale == "mean" else kernel

    def forward(self, kernel: Tensor, search: Tensor) -> Tensor:
        """Correlate filters (B, C, k, k) with features (B, C, s, s): (B, C, s-k-1, s-k-1)."""
        features = self.conv_search(search)
        b, c, height, width = features.shape
        flat = features.reshape(1, b * c, height, width)
        correlated = F.conv2d(flat, kernel.reshape(b * c, 1, *kernel.shape[2:]), groups=b * c)
        return correlated.reshape(b, c, *correlated.shape[2:])

    def at_windows(self, kernel: Tensor, windows: Tensor) -> Tensor:
        """Correlate filters (N, C, k, k) with one window each, (N, C, k+2, k+2); return (N, C), as
        the map of `forward` has one position here."""
        return (self.conv_search(windows) * kernel).sum(dim=(2, 3))
