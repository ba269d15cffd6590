"""Candidate windows of feature maps: the paper's "unfold ... then select", without ever unfolding."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Cells(NamedTuple):
    """N positions in the correlation maps of a batch, each (N,) int64."""

    image: Tensor
    row: Tensor
    column: Tensor


def gather_windows(maps: Tensor, image: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Cut N square windows out of a batch of maps; what lies outside a map is zero.

    Args:
        maps: (B, C, H, W).
        image, top, left: (N,) int64, which map and where; may lie partly outside.
        size: rows and columns of a window.

    Returns:
        (N, C, size, size).
    """
    if maps.is_cuda:
        return index_windows(maps, image, top, left, size)
    return _Windows.apply(maps, torch.stack([image, top, left], dim=1).tolist(), size)


def index_windows(maps: Tensor, image: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """`gather_windows` by one indexing operation: a GPU is slow at many small copies, a CPU at indices."""
    height, width = maps.shape[-2:]
    steps = torch.arange(size, device=maps.device)
    rows, columns = (start.to(maps.device)[:, None] + steps for start in (top, left))
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    places = image.to(maps.device)[:, None, None], rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]
    return torch.where(inside[..., None], maps.permute(0, 2, 3, 1)[places], 0).permute(0, 3, 1, 2)


class _Windows(torch.autograd.Function):
    """Slicing in a loop would make autograd fill one full-size zero map per window; this fills one in all."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, places: list[tuple[int, int, int]], size: int) -> Tensor:
        ctx.shape, ctx.places, ctx.size = maps.shape, places, size
        windows = torch.zeros((len(places), maps.shape[1], size, size), dtype=maps.dtype, device=maps.device).contiguous(
            memory_format=torch.channels_last
        )
        for n, (image, source, target) in enumerate(_overlaps(places, size, maps.shape)):
            windows[n][:, *target] = maps[image][:, *source]
        return windows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        filled = torch.zeros(ctx.shape, dtype=gradient.dtype, device=gradient.device).contiguous(memory_format=torch.channels_last)
        for n, (image, source, target) in enumerate(_overlaps(ctx.places, ctx.size, ctx.shape)):
            filled[image][:, *source] += gradient[n][:, *target]
        return filled, None, None


def _overlaps(places: list[tuple[int, int, int]], size: int, shape: torch.Size) -> list[tuple[int, Any, Any]]:
    """For each window its map, the part of the map it covers, and where that part lies in the window."""
    height, width = shape[-2:]
    result = []
    for image, top, left in places:
        y1, y2, x1, x2 = max(top, 0), min(top + size, height), max(left, 0), min(left + size, width)
        result.append((image, (slice(y1, y2), slice(x1, x2)), (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))))
    return result
