"""What a training pair teaches where: the anchors' targets (SiamRPN) and the paper's supervised sampling of windows (3.3).

Both run in the data workers, on one image pair at a time, with the pair's own random generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from e3sn_lib.config import SamplerConfig
from e3sn_lib.geometry import CELLS, Box, anchors_cxcywh, anchors_xyxy, encode_boxes

NEGATIVE_PAIR_REACH = 3
"""A negative pair teaches "not here" in the central 7 x 7 cells, where the target would be (SiamMask)."""


@dataclass(frozen=True)
class AnchorTargets:
    """Targets of the classification and box branches."""

    labels: NDArray[np.int8]
    """(5, n, n): 1 positive, 0 negative, -1 not used."""
    offsets: NDArray[np.float32]
    """(4, 5, n, n): `encode_boxes` of the target, meaningful at positives."""


@dataclass(frozen=True)
class Samples:
    """Candidate windows that go through the refinement."""

    cells: NDArray[np.int64]
    """(K, 2) row and column."""
    labels: NDArray[np.int8]
    """(K,): the y of eq. 4, +1 positive, -1 negative; 0 fills up and never counts."""


def anchor_iou(box_crop_xyxy: Box, cells: int = CELLS, centre: float = 127.5) -> NDArray[np.float64]:
    """(5, cells, cells) intersection over union of each anchor with the target."""
    anchors, target = anchors_xyxy(centre, cells), np.array(box_crop_xyxy)
    corner, far_corner = np.maximum(anchors[..., :2], target[:2]), np.minimum(anchors[..., 2:], target[2:])
    common = np.maximum(far_corner - corner, 0).prod(axis=-1)
    areas = (anchors[..., 2:] - anchors[..., :2]).prod(axis=-1) + (target[2:] - target[:2]).prod()
    return np.asarray(common / (areas - common))


def anchor_targets(
    iou: NDArray[np.float64],
    box_crop_xyxy: Box,
    config: SamplerConfig,
    rng: Generator,
    centre: float = 127.5,
    alike_crop_xyxy: Sequence[Box] = (),
) -> AnchorTargets:
    """Positives above the high threshold, negatives below the low one, thinned out to 16 and 64 in all (SiamMask).

    Where look-alikes of the target are known, up to 16 of the negatives are anchors that lie on them: of 48 drawn from all
    3,000, hardly one would (ours).
    """
    positive, negative = np.flatnonzero(iou > config.high), np.flatnonzero(iou < config.low)
    positive = rng.permutation(positive)[: config.anchor_positives]
    negative = rng.permutation(negative)
    if alike_crop_xyxy:
        on_each = [anchor_iou(box, iou.shape[-1], centre) for box in alike_crop_xyxy]
        on_them = np.max(on_each, axis=0).ravel()[negative]
        hard = np.flatnonzero(on_them > config.high)[: config.anchor_positives]
        negative = np.concatenate([negative[hard], np.delete(negative, hard)])
    negative = negative[: config.anchor_total - len(positive)]
    labels = np.full(iou.size, -1, np.int8)
    labels[positive], labels[negative] = 1, 0
    cells = iou.shape[-1]
    x1, y1, x2, y2 = box_crop_xyxy
    target = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
    offsets = encode_boxes(target, anchors_cxcywh(centre, cells)).transpose(3, 0, 1, 2)
    return AnchorTargets(labels.reshape(iou.shape), offsets.astype(np.float32))


def negative_pair_targets(
    config: SamplerConfig, rng: Generator, cells: int = CELLS, iou: NDArray[np.float64] | None = None
) -> AnchorTargets:
    """Search and template show different objects: a few central anchors are negatives, nothing else is taught (SiamMask).

    With `iou`, that of the anchors with the object that is shown, half of them are anchors that lie on it (ours).
    """
    labels = np.full((5, cells, cells), -1, np.int8)
    middle = slice(cells // 2 - NEGATIVE_PAIR_REACH, cells // 2 + NEGATIVE_PAIR_REACH + 1)
    central = np.zeros_like(labels, dtype=bool)
    central[:, middle, middle] = True
    on_it = np.empty(0, np.int64)
    if iou is not None:
        on_it = rng.permutation(np.flatnonzero(iou > config.high))[: config.anchor_positives // 2]
        central.ravel()[on_it] = False
    chosen = rng.permutation(np.flatnonzero(central))[: config.anchor_positives - len(on_it)]
    chosen = np.concatenate([on_it, chosen])
    labels.ravel()[chosen] = 0
    return AnchorTargets(labels, np.zeros((4, 5, cells, cells), np.float32))


def distribution_matrix(iou: NDArray[np.float64], high: float = 0.6, low: float = 0.3) -> NDArray[np.int8]:
    """The paper's sample distribution matrix, (n, n) from anchor IoU (5, n, n).

    +1 where any anchor of the cell has IoU above `high`, -1 where all have IoU below `low`, else 0. The paper says "the
    corresponding window"; the 127 px window itself never reaches 0.6, so its anchors stand for it (inferred).
    """
    best = iou.max(axis=0)
    return (best > high).astype(np.int8) - (best < low).astype(np.int8)


def draw_samples(
    matrix: NDArray[np.int8], anchor_labels: NDArray[np.int8], has_mask: bool, config: SamplerConfig, rng: Generator
) -> Samples:
    """Choose the windows of one image by the configured policy.

    ``supervised``: `positives_per_image` positives and negatives up to `samples_per_image`, uniformly without replacement. With
    fewer positives all are taken and negatives fill up. ``all_positive``: every cell with a drawn positive anchor (SiamMask).

    Without a mask (a set with boxes only, or a negative pair) every label is 0: shape stays, nothing is taught.
    """
    if config.policy == "all_positive":
        count, positive, negative = config.anchor_positives, np.flatnonzero((anchor_labels == 1).any(axis=0)), np.empty(0, np.int64)
    else:
        count = config.samples_per_image
        positive = rng.permutation(np.flatnonzero(matrix == 1))[: config.positives_per_image]
        negative = rng.permutation(np.flatnonzero(matrix == -1))[: count - len(positive)]
    chosen = np.concatenate([positive, negative])[:count]
    filler = np.full(count - len(chosen), matrix.size // 2)
    labels = np.concatenate([np.ones(len(positive)), -np.ones(len(negative))])[:count]
    labels = np.concatenate([labels, np.zeros(len(filler))]).astype(np.int8)
    flat = np.concatenate([chosen, filler]).astype(np.int64)
    cells = np.stack([flat // matrix.shape[1], flat % matrix.shape[1]], axis=1)
    return Samples(cells, labels if has_mask else np.zeros_like(labels))
