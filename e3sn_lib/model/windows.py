"""Candidate windows of feature maps: the paper's "unfold ... then select".

Only the selected windows are cut out. Nothing is unfolded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
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
    top, left = ((STRIDE * index - margin) // stride for index in (cells.row, cells.column))
    return gather_windows(maps, cells.image, top, left, size)


def gather_windows(maps: Tensor, image: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Cut windows by the map, first row and first column of each, (N,) int64."""
    if maps.is_cuda:
        return index_windows(maps, image, top, left, size)
    return _Windows.apply(maps, torch.stack([image, top, left], dim=1).tolist(), size)


def index_windows(maps: Tensor, image: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Do what `gather_windows` does by one indexing operation: fast on a GPU, slow on a CPU."""
    height, width = maps.shape[-2:]
    steps = torch.arange(size, device=maps.device)
    rows, columns = (start.to(maps.device)[:, None] + steps for start in (top, left))
    row_inside, column_inside = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    inside = row_inside[:, :, None] & column_inside[:, None]
    places = (
        image.to(maps.device)[:, None, None],
        rows.clamp(0, height - 1)[:, :, None],
        columns.clamp(0, width - 1)[:, None],
    )
    values = maps.permute(0, 2, 3, 1)[places]
    return torch.where(inside[..., None], values, 0).permute(0, 3, 1, 2)


class _Windows(torch.autograd.Function):
    """Slices in a loop, whose gradient fills one map for all; autograd would fill one for each."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, places: list[tuple[int, int, int]], size: int) -> Tensor:
        ctx.shape, ctx.places, ctx.size = maps.shape, places, size
        windows = torch.zeros(
            (len(places), maps.shape[1], size, size), dtype=maps.dtype, device=maps.device
        ).contiguous(memory_format=torch.channels_last)
        for n, (image, source, target) in enumerate(_overlaps(places, size, maps.shape)):
            windows[n][:, *target] = maps[image][:, *source]
        return windows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        filled = torch.zeros(ctx.shape, dtype=gradient.dtype, device=gradient.device).contiguous(
            memory_format=torch.channels_last
        )
        for n, (image, source, target) in enumerate(_overlaps(ctx.places, ctx.size, ctx.shape)):
            filled[image][:, *source] += gradient[n][:, *target]
        return filled, None, None


def _overlaps(
    places: list[tuple[int, int, int]], size: int, shape: torch.Size
) -> list[tuple[int, Any, Any]]:
    """Return each window's map, the part of the map that it covers, and this part's place in it."""
    height, width = shape[-2:]
    result = []
    for image, top, left in places:
        y1, y2 = max(top, 0), min(top + size, height)
        x1, x2 = max(left, 0), min(left + size, width)
        in_map = slice(y1, y2), slice(x1, x2)
        in_window = slice(y1 - top, y2 - top), slice(x1 - left, x2 - left)
        result.append((image, in_map, in_window))
    return result
