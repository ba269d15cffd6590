"""Anchors, their targets and the sample distribution matrix against the public SiamMask code.

Coordinates of the public code are pixel indices, ours are continuous: its i is our i + 0.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from recipe import Reference, largest_deviation

from e3sn_lib.config import SamplerConfig
from e3sn_lib.geometry import anchor_sizes, anchors_cxcywh, anchors_xyxy
from e3sn_lib.sampling import (
    AnchorTargets,
    anchor_iou,
    anchor_targets,
    distribution_matrix,
    negative_pair_targets,
)
from e3sn_lib.tracking.tracker import ANCHORS, WINDOW

ALL = SamplerConfig(anchor_positives=3125, anchor_total=2 * 3125)
"""Nothing is thinned out."""
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def expected(reference: Reference) -> dict[str, NDArray[Any]]:
    return reference.arrays("anchors")


@pytest.fixture(scope="module")
def ious(expected: dict[str, NDArray[Any]]) -> list[NDArray[np.float64]]:
    return [anchor_iou(tuple(box + 0.5)) for box in expected["boxes"]]


@pytest.fixture(scope="module")
def targets(
    expected: dict[str, NDArray[Any]], ious: list[NDArray[np.float64]]
) -> list[AnchorTargets]:
    rng = np.random.default_rng(0)
    return [
        anchor_targets(iou, tuple(box + 0.5), ALL, rng)
        for iou, box in zip(ious, expected["boxes"], strict=True)
    ]


def test_anchors_and_the_window_of_tracking(expected, reference, record_deviation) -> None:
    ours = {
        "anchor_wh": anchor_sizes(),
        "base_corner": anchors_xyxy(centre=0.0, cells=1)[:, 0, 0],
        "grid_corner": anchors_xyxy().transpose(3, 0, 1, 2) - 0.5,
        "grid_center": anchors_cxcywh().transpose(3, 0, 1, 2)
        - np.array([0.5, 0.5, 0, 0])[:, None, None, None],
        "inference_anchors": ANCHORS,
        "window": WINDOW[:625].reshape(25, 25),
    }
    largest = max(largest_deviation(values, expected[name]) for name, values in ours.items())
    record_deviation(
        "anchors and window",
        reference.source,
        largest,
        TOLERANCE,
        sum(expected[name].size for name in ours),
    )
    assert largest <= TOLERANCE
    assert largest_deviation(WINDOW, np.tile(expected["window"].ravel(), 5)) <= TOLERANCE


def test_overlap_of_anchors_and_boxes(ious, expected, reference, record_deviation) -> None:
    overlaps = np.stack(ious)
    flat = overlaps.reshape(len(overlaps), -1)
    largest = max(
        largest_deviation(overlaps, expected["iou"]),
        largest_deviation(flat.max(axis=1), expected["iou_max"]),
        largest_deviation(flat.mean(axis=1), expected["iou_mean"]),
    )
    record_deviation(
        "overlap of anchors and boxes", reference.source, largest, TOLERANCE, overlaps.size
    )
    assert largest <= TOLERANCE
    assert np.array_equal(flat.argmax(axis=1), expected["iou_argmax"])
    margins = np.stack([np.abs(flat - threshold).min(axis=1) for threshold in (0.6, 0.3)], axis=1)
    assert largest_deviation(margins, expected["threshold_margin"]) <= TOLERANCE


def test_positive_and_negative_anchors(targets, expected, reference, record_deviation) -> None:
    labels = np.stack([target.labels.ravel() for target in targets])
    positive, negative = labels == 1, labels == 0
    negative_bits = np.unpackbits(expected["neg_bits"], axis=1, count=3125).astype(bool)
    positive_index = np.split(expected["pos_index"], np.cumsum(expected["pos_count"])[:-1])
    wrong = int((negative != negative_bits).sum())
    wrong += sum(
        not np.array_equal(np.flatnonzero(row), index)
        for row, index in zip(positive, positive_index, strict=True)
    )
    record_deviation("positive and negative anchors", reference.source, wrong, 0, labels.size)
    assert wrong == 0
    assert positive.sum(axis=1).tolist() == expected["pos_count"].tolist()
    assert negative.sum(axis=1).tolist() == expected["neg_count"].tolist()


def test_offsets_of_positives(targets, expected, reference, record_deviation) -> None:
    offsets = np.concatenate([target.offsets[:, target.labels == 1].T for target in targets])
    largest = largest_deviation(offsets, expected["pos_delta"])
    record_deviation("box offsets of positives", reference.source, largest, TOLERANCE, offsets.size)
    assert largest <= TOLERANCE


def test_cells_with_a_positive_anchor(targets, ious, expected, reference, record_deviation) -> None:
    cells = np.stack([target.labels.max(axis=0) for target in targets])
    matrices = np.stack([distribution_matrix(iou) for iou in ious])
    negative = (
        np.unpackbits(expected["neg_bits"], axis=1, count=3125).reshape(-1, 5, 25, 25).all(axis=1)
    )
    wrong = (cells != expected["cell_label"]).sum() + (
        (matrices == 1) != (expected["cell_label"] == 1)
    ).sum()
    wrong += ((matrices == -1) != negative).sum()
    record_deviation(
        "labels of cells, sample distribution matrix",
        reference.source,
        int(wrong),
        0,
        2 * cells.size,
    )
    assert wrong == 0


def test_anchors_of_a_negative_pair(expected, reference, record_deviation) -> None:
    labels = negative_pair_targets(ALL, np.random.default_rng(0)).labels.ravel()
    wrong = np.setxor1d(np.flatnonzero(labels == 0), expected["negpair_index"])
    record_deviation(
        "anchors of a negative pair",
        reference.source,
        len(wrong),
        0,
        len(expected["negpair_index"]),
    )
    assert len(wrong) == 0
    assert set(np.unique(labels)) == {-1, 0}


def test_thinned_out_anchors_are_some_of_them(targets, ious, expected) -> None:
    rng, config = np.random.default_rng(1), SamplerConfig()
    for full, iou, box in zip(targets, ious, expected["boxes"], strict=True):
        labels = anchor_targets(iou, tuple(box + 0.5), config, rng).labels
        assert (labels[labels >= 0] == full.labels[labels >= 0]).all()
        assert (labels == 1).sum() == min(16, (full.labels == 1).sum())
        assert (labels >= 0).sum() == 64
    labels = negative_pair_targets(config, rng).labels.ravel()
    assert set(np.flatnonzero(labels == 0)) <= set(expected["negpair_index"].tolist())
    assert (labels == 0).sum() == 16
