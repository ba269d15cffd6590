"""Anchors and box offsets (SiamRPN's parametrisation; sizes as in SiamMask's public code).

All boxes are continuous: a pixel with index i covers [i, i + 1), so index i of SiamMask's code is i + 0.5 here.
A flat anchor index is ``anchor * cells**2 + row * cells + column`` everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import box_convert

STRIDE = 8
TEMPLATE_SIZE = 127
"""Pixels of the template crop and of a candidate window (paper 4.1)."""
CELLS = 25
"""Rows and columns of the correlation map of a 255 px search crop."""
ANCHOR_RATIOS = (0.33, 0.5, 1.0, 2.0, 3.0)
ANCHOR_SCALE = 8


def anchor_sizes() -> Tensor:
    """(5, 2) width and height in crop pixels: 104x32, 88x40, 64x64, 40x80, 32x96."""
    sizes = []
    for ratio in ANCHOR_RATIOS:  # height / width; truncated like SiamMask's
        width = int(math.sqrt(STRIDE * STRIDE / ratio))
        sizes.append((width * ANCHOR_SCALE, int(width * ratio) * ANCHOR_SCALE))
    return torch.tensor(sizes, dtype=torch.float64)


def anchors_cxcywh(centre: float = 127.5, cells: int = CELLS) -> Tensor:
    """(5, cells, cells, 4) anchors on a grid of stride 8 around `centre`, float64.

    `centre` is 127.5, the middle of a 255 px crop, for training, and 0 for tracking, relative to the crop's middle.
    """
    offsets = centre + STRIDE * (torch.arange(cells, dtype=torch.float64) - (cells - 1) / 2)
    cy, cx = torch.meshgrid(offsets, offsets, indexing="ij")
    sizes = anchor_sizes()
    grid = torch.empty(len(sizes), cells, cells, 4, dtype=torch.float64)
    grid[..., 0], grid[..., 1] = cx, cy
    grid[..., 2:] = sizes[:, None, None]
    return grid


def anchors_xyxy(centre: float = 127.5, cells: int = CELLS) -> Tensor:
    """`anchors_cxcywh` as corners."""
    return box_convert(anchors_cxcywh(centre, cells), "cxcywh", "xyxy")


def encode_boxes(boxes_cxcywh: Tensor, anchors: Tensor) -> Tensor:
    """Offsets (dx / w, dy / h, log w, log h) of boxes relative to anchors, both (..., 4) as cx, cy, w, h."""
    centre = (boxes_cxcywh[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    return torch.cat([centre, (boxes_cxcywh[..., 2:] / anchors[..., 2:]).log()], dim=-1)


def decode_boxes(offsets: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode_boxes`: (..., 4) boxes as cx, cy, w, h."""
    return torch.cat([offsets[..., :2] * anchors[..., 2:] + anchors[..., :2], offsets[..., 2:].exp() * anchors[..., 2:]], dim=-1)
