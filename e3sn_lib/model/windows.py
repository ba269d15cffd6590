"""Candidate windows of feature maps: the paper's "unfold ... then select".

Only the selected windows are cut out. Nothing is unfolded.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from e3sn_lib.geometry import STRIDE


class Cells(NamedTuple):
    """N cells of the correlation maps of a batch, each field (N,) int64."""

    image: Tensor
    row: Tensor
    column: Tensor


def cut_windows(maps: Tensor, cells: Cells, margin: int, stride: int, size: int) -> Tensor:
    """Cut the windows of N cells, (N, C, size, size), out of maps (B, C, H, W).

    They are zero beyond the maps. The first window reaches `margin` search pixels beyond the search
    crop, and a pixel of the maps is `stride` search pixels wide.
    """
    border = max(margin, 0) // stride  # the last window reaches as far beyond as the first
    maps = F.pad(maps, (border,) * 4)
    top, left = ((STRIDE * i - margin) // stride + border for i in (cells.row, cells.column))
    if maps.is_cuda:
        return index_windows(maps, cells.image, top, left, size)
    return Windows.apply(maps, torch.stack([cells.image, top, left], dim=1).tolist(), size)


def index_windows(maps: Tensor, image: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Cut windows within maps by one indexing operation: fast on a GPU, slow on a CPU. `image`,
    `top` and `left`, (N,) int64, are the map, first row and first column of each."""
    inside = torch.arange(size, device=maps.device)
    rows, columns = top[:, None] + inside, left[:, None] + inside
    places = image[:, None, None], rows[:, :, None], columns[:, None]
    return maps.permute(0, 2, 3, 1)[places].permute(0, 3, 1, 2)


class Windows(torch.autograd.Function):
    """Slices in a loop, whose gradient fills one map for all; autograd would fill one for each."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, places: list[tuple[int, int, int]], size: int) -> Tensor:
        """Return the windows at places (map, first row, first column), (N, C, size, size)."""
        ctx.shape, ctx.places, ctx.size = maps.shape, places, size
        return torch.cat([maps[n : n + 1, :, y : y + size, x : x + size] for n, y, x in places])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Add the gradients of the windows up in one map."""
        filled = gradients[0].new_zeros(ctx.shape).contiguous(memory_format=torch.channels_last)
        for (n, y, x), gradient in zip(ctx.places, gradients[0], strict=True):
            filled[n, :, y : y + ctx.size, x : x + ctx.size] += gradient
        return filled, None, None
