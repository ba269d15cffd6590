"""Anchors and box offsets (SiamRPN's parametrisation; sizes as in SiamMask's public code).

All boxes are continuous: a pixel with index i covers [i, i + 1), so index i of SiamMask's code is i + 0.5 here.
A flat anchor index is ``anchor * cells**2 + row * cells + column`` everywhere.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

STRIDE = 8
TEMPLATE_SIZE = 127
"""Pixels of the template crop and of a candidate window (paper 4.1)."""
CELLS = 25
"""Rows and columns of the correlation map of a 255 px search crop."""
WINDOW_MARGIN = 32
"""How far, in pixels, the first candidate window of a 255 px search crop reaches beyond the crop (SiamMask)."""
ANCHOR_RATIOS = (0.33, 0.5, 1.0, 2.0, 3.0)
ANCHOR_SCALE = 8


def anchor_sizes() -> NDArray[np.float64]:
    """(5, 2) width and height in crop pixels: 104x32, 88x40, 64x64, 40x80, 32x96."""
    sizes = []
    for ratio in ANCHOR_RATIOS:  # height / width; truncated like SiamMask's
        width = int(math.sqrt(STRIDE * STRIDE / ratio))
        sizes.append((width * ANCHOR_SCALE, int(width * ratio) * ANCHOR_SCALE))
    return np.array(sizes, np.float64)


def anchors_cxcywh(centre: float = 127.5, cells: int = CELLS) -> NDArray[np.float64]:
    """(5, cells, cells, 4) anchors on a grid of stride 8 around `centre`.

    `centre` is 127.5, the middle of a 255 px crop, for training, and 0 for tracking, relative to the crop's middle.
    """
    offsets = centre + STRIDE * (np.arange(cells) - (cells - 1) / 2)
    sizes = anchor_sizes()
    grid = np.empty((len(sizes), cells, cells, 4))
    grid[..., 0], grid[..., 1] = offsets, offsets[:, None]
    grid[..., 2:] = sizes[:, None, None]
    return grid


def anchors_xyxy(centre: float = 127.5, cells: int = CELLS) -> NDArray[np.float64]:
    """`anchors_cxcywh` as corners."""
    anchors = anchors_cxcywh(centre, cells)
    middle, half = anchors[..., :2], anchors[..., 2:] / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def encode_boxes(boxes_cxcywh: NDArray[np.float64], anchors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offsets (dx / w, dy / h, log w, log h) of boxes relative to anchors, both (..., 4) as cx, cy, w, h."""
    centre = (boxes_cxcywh[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    return np.concatenate([centre, np.log(boxes_cxcywh[..., 2:] / anchors[..., 2:])], axis=-1)


def decode_boxes(offsets: NDArray[np.float64], anchors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `encode_boxes`: (..., 4) boxes as cx, cy, w, h."""
    centre = offsets[..., :2] * anchors[..., 2:] + anchors[..., :2]
    return np.concatenate([centre, np.exp(offsets[..., 2:]) * anchors[..., 2:]], axis=-1)
