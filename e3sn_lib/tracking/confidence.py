"""Predict how good a mask is: J of each object from what one tracking step knows.

The classification score stays high after a tracker has drifted to something else. The mask knows
better: a wrong one is less certain, falls into parts, and does not fit its box. A logistic
regression on such features predicts J. ``confidence.json`` holds its numbers and their origin;
``e3sn bench confidence`` fits them. They belong to the shipped model. Of other models the
prediction is an order of frames rather than a value.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from e3sn_lib.geometry import CELLS

TABLE = Path(__file__).with_name("confidence.json")
FEATURES = (
    "score",
    "margin",
    "certainty",
    "expected_iou",
    "fill",
    "box_iou",
    "parts",
    "rim",
    "size_change",
)
"""Columns of `step_features`."""
NEAR = 6
"""Cells around the best one that belong to the same peak; this many make 48 pixels of a crop."""
LARGEST_LOGIT = 8.0
Floats = NDArray[np.float64]


def step_features(
    logits: NDArray[np.floating[Any]],
    cells: NDArray[np.int64],
    soft: NDArray[np.float32],
    boxes_window_xyxy: Floats,
    size_change: Floats,
    threshold: float,
) -> Floats:
    """Return what a step tells of its N masks, in the order of `FEATURES`.

    Args:
        logits: (N, A, 25, 25) of the class scores, object minus background.
        cells: (N, 2) row and column of the chosen cell.
        soft: (N, 127, 127) object probabilities in the window of that cell.
        boxes_window_xyxy: (N, 4) tracked boxes in pixels of the windows.
        size_change: (N,) logarithm of the box's size over that in the previous frame.
        threshold: above which a pixel belongs to the mask.

    Returns:
        (N, 9), finite: logit of the best score at the cell; its lead over the best score elsewhere;
        mean probability inside the mask; expected IoU of the mask with a mask drawn from the
        probabilities; share of the box that the mask fills; IoU of the box around the mask and
        the tracked box; logarithm of the number of parts; share of the mask's pixels on its rim;
        absolute `size_change`.
    """
    found = np.zeros((len(soft), len(FEATURES)))
    peaks = np.clip(logits.max(axis=1), -LARGEST_LOGIT, LARGEST_LOGIT)
    for row, (peak, (y, x)) in enumerate(zip(peaks, cells.tolist(), strict=True)):
        elsewhere = np.ones((CELLS, CELLS), bool)
        elsewhere[max(y - NEAR, 0) : y + NEAR + 1, max(x - NEAR, 0) : x + NEAR + 1] = False
        found[row, :2] = peak[y, x], peak[y, x] - peak[elsewhere].max()
    for row, (mask, box) in enumerate(zip(soft, boxes_window_xyxy, strict=True)):
        found[row, 2:8] = _mask_features(mask, box, threshold)
    found[:, 8] = np.abs(size_change)
    return found


def _mask_features(soft: NDArray[np.float32], box: Floats, threshold: float) -> list[float]:
    mask = (soft > threshold).astype(np.uint8)
    area = int(mask.sum())
    if area == 0:  # the worst values that a mask can have
        return [threshold, 0.0, 0.0, 0.0, 0.0, 1.0]
    inside = float(soft[mask > 0].sum())
    expected_iou = inside / (area + float(soft.sum()) - inside)
    parts, _ = cv2.connectedComponents(mask)
    rim = 1 - cv2.erode(mask, np.ones((3, 3), np.uint8)).sum() / area
    x, y, width, height = cv2.boundingRect(mask)
    around = np.array([x, y, x + width, y + height])
    left, top, right, bottom = np.clip(box.round(), 0, len(soft)).astype(int)
    box_area = max(float((box[2:] - box[:2]).prod()), 1.0)
    fill = min(float(mask[top:bottom, left:right].sum()) / box_area, 1.0)
    shared = np.minimum(around[2:], box[2:]) - np.maximum(around[:2], box[:2])
    both = float(shared.clip(0).prod())
    box_iou = both / (width * height + box_area - both)
    return [inside / area, expected_iou, fill, box_iou, float(np.log(parts - 1)), float(rim)]


def predict_j(features: Floats, table: dict[str, Any] | None = None) -> Floats:
    """Return (N,) predicted J, 0 to 1, from (N, 9) features.

    Args:
        features: of `step_features`.
        table: numbers of a fit; None: those that come with the package.
    """
    table = table or shipped_table()
    mean, deviation, weight = (np.array(table[key]) for key in ("mean", "deviation", "weight"))
    logits = ((features - mean) / deviation * weight).sum(axis=1) + table["bias"]
    return np.asarray(1 / (1 + np.exp(-logits)))


@functools.cache
def shipped_table() -> dict[str, Any]:
    """Read the fit that comes with the package."""
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table
