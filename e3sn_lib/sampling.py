"""What a training pair teaches: the targets of the anchors, and the sampled candidate windows.

The targets of the anchors are SiamRPN's, the supervised sampling is the paper's (3.3). Both see one
pair at a time and draw from the pair's own random generator.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from e3sn_lib.config import SamplerConfig
from e3sn_lib.geometry import CELLS, Box, Floats, anchors_cxcywh, anchors_xyxy, encode_boxes

Labels = NDArray[np.int8]
NEGATIVE_PAIR_REACH = 3
"""A negative pair teaches "not here" in the central 7 x 7 cells: a target is usually there
(SiamMask)."""


class AnchorTargets(NamedTuple):
    """Targets of the classification and box branches."""

    labels: Labels
    """(5, n, n): 1 positive, 0 negative, -1 not used."""
    offsets: NDArray[np.float32]
    """(4, 5, n, n): `encode_boxes` of the target. Only those at positives mean something."""


class Samples(NamedTuple):
    """Candidate windows that go through the refinement."""

    cells: NDArray[np.int64]
    """(K, 2) row and column."""
    labels: Labels
    """(K,) y of eq. 4: +1 positive, -1 negative. 0 fills up to K and teaches nothing."""


def anchor_iou(box_crop_xyxy: Box, cells: int = CELLS, centre: float = 127.5) -> Floats:
    """Return the intersection over union of each anchor with the target, (5, cells, cells).
    `centre` is the middle of the search crop, in crop pixels."""
    anchors, target = anchors_xyxy(centre, cells), np.array(box_crop_xyxy)
    corner = np.maximum(anchors[..., :2], target[:2])
    far_corner = np.minimum(anchors[..., 2:], target[2:])
    common = np.maximum(far_corner - corner, 0).prod(axis=-1)
    areas = (anchors[..., 2:] - anchors[..., :2]).prod(axis=-1) + (target[2:] - target[:2]).prod()
    return np.asarray(common / (areas - common))


def anchor_targets(
    iou: Floats,
    box_crop_xyxy: Box,
    config: SamplerConfig,
    rng: Generator,
    centre: float = 127.5,
    alike_crop_xyxy: Sequence[Box] = (),
) -> AnchorTargets:
    """Choose positives above the high threshold and negatives below the low one.

    At most 16 positives and 64 anchors in all are drawn (SiamMask). Up to 16 negatives lie on
    look-alikes of the target (ours): a random choice of 48 out of 3,000 would hardly meet one.

    Args:
        iou: (5, n, n) from `anchor_iou` with the same `centre`.
        alike_crop_xyxy: the look-alikes in the search crop, if any are known.
    """
    cells = iou.shape[-1]
    positive, negative = np.flatnonzero(iou > config.high), np.flatnonzero(iou < config.low)
    positive = rng.permutation(positive)[: config.anchor_positives]
    negative = rng.permutation(negative)
    if alike_crop_xyxy:
        on_each = [anchor_iou(box, cells, centre) for box in alike_crop_xyxy]
        on_them = np.max(on_each, axis=0).ravel()[negative]
        hard = np.flatnonzero(on_them > config.high)[: config.anchor_positives]
        negative = np.concatenate([negative[hard], np.delete(negative, hard)])
    negative = negative[: config.anchor_total - len(positive)]
    labels = np.full(iou.size, -1, np.int8)
    labels[positive], labels[negative] = 1, 0
    x1, y1, x2, y2 = box_crop_xyxy
    target = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
    offsets = encode_boxes(target, anchors_cxcywh(centre, cells)).transpose(3, 0, 1, 2)
    return AnchorTargets(labels.reshape(iou.shape), offsets.astype(np.float32))


def negative_pair_targets(
    config: SamplerConfig, rng: Generator, cells: int = CELLS, iou: Floats | None = None
) -> AnchorTargets:
    """Choose the targets of a pair whose search crop shows another object than the template.

    A few central anchors are negatives, and nothing else is taught (SiamMask). With `iou`, that of
    the anchors with the object in the search crop, half of them lie on this object (ours).
    """
    labels = np.full((5, cells, cells), -1, np.int8)
    if iou is not None:
        on_object = rng.permutation(np.flatnonzero(iou > config.high))
        labels.ravel()[on_object[: config.anchor_positives // 2]] = 0
    count = config.anchor_positives - np.count_nonzero(labels == 0)
    middle = slice(cells // 2 - NEGATIVE_PAIR_REACH, cells // 2 + NEGATIVE_PAIR_REACH + 1)
    central = np.zeros_like(labels, dtype=bool)
    central[:, middle, middle] = labels[:, middle, middle] != 0
    labels.ravel()[rng.permutation(np.flatnonzero(central))[:count]] = 0
    return AnchorTargets(labels, np.zeros((4, 5, cells, cells), np.float32))


def distribution_matrix(iou: Floats, high: float = 0.6, low: float = 0.3) -> Labels:
    """Return the paper's sample distribution matrix, (n, n) from anchor IoU (5, n, n).

    A cell is +1 if any of its anchors has an IoU above `high`, -1 if all have an IoU below `low`,
    else 0. The paper says "the corresponding window". The 127 px window itself hardly reaches 0.6,
    so its anchors are used instead (inferred).
    """
    best = iou.max(axis=0)
    return (best > high).astype(np.int8) - (best < low).astype(np.int8)


def draw_samples(
    matrix: Labels, anchor_labels: Labels, has_mask: bool, config: SamplerConfig, rng: Generator
) -> Samples:
    """Choose the candidate windows of one image by ``sampler.policy``.

    ``supervised`` draws `positives_per_image` positives and fills up to `samples_per_image` with
    negatives, uniformly and without replacement. If there are fewer positives, all are taken.
    ``all_positive`` takes every cell with a drawn positive anchor (SiamMask).

    Args:
        matrix: (n, n) from `distribution_matrix`.
        anchor_labels: (5, n, n) of `AnchorTargets`.
        has_mask: False for a set with boxes only and for a negative pair: all labels are then 0.
    """
    if config.policy == "all_positive":
        count = min(config.anchor_positives, matrix.size)
        positive = np.flatnonzero((anchor_labels == 1).any(axis=0))
        negative = np.empty(0, np.int64)
    else:
        count = config.samples_per_image
        positive = rng.permutation(np.flatnonzero(matrix == 1))[: config.positives_per_image]
        negative = rng.permutation(np.flatnonzero(matrix == -1))[: count - len(positive)]
    chosen = np.concatenate([positive, negative])[:count]
    flat = np.full(count, matrix.size // 2)  # the middle cell fills up
    flat[: len(chosen)] = chosen
    labels = np.zeros(count, np.int8)
    if has_mask:
        labels[: len(chosen)] = -1
        labels[: len(positive)] = 1
    return Samples(np.stack(np.divmod(flat, matrix.shape[1]), axis=1), labels)
