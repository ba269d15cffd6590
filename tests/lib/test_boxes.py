"""Anchors and box offsets against SiamRPN's numbers and their own inverse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e3sn_lib.geometry import (
    CELLS,
    anchor_sizes,
    anchors_cxcywh,
    anchors_xyxy,
    decode_boxes,
    encode_boxes,
)

boxes = st.tuples(*[st.floats(-300, 300)] * 2, *[st.floats(0.5, 600)] * 2)


def test_sizes_are_those_of_the_public_code() -> None:
    assert anchor_sizes().tolist() == [[104, 32], [88, 40], [64, 64], [40, 80], [32, 96]]


def test_the_grid_has_stride_8_around_the_middle_of_the_crop() -> None:
    grid = anchors_cxcywh()
    assert grid.shape == (5, 25, 25, 4)
    centres = grid[2, :, :, :2]
    assert centres[0, 0].tolist() == [31.5, 31.5]
    assert centres[12, 12].tolist() == [127.5, 127.5]
    assert centres[3, 20].tolist() == [31.5 + 8 * 20, 31.5 + 8 * 3]  # the row is y, the column is x
    assert (grid[..., :2] == centres).all()
    assert np.array_equal(grid[:, 7, 9, 2:], anchor_sizes())


def test_the_grid_of_tracking_is_relative_to_the_middle() -> None:
    assert np.array_equal(anchors_cxcywh(centre=0.0)[..., :2] + 127.5, anchors_cxcywh()[..., :2])
    assert anchors_cxcywh(centre=71.5, cells=3)[0, :, 0, 1].tolist() == [63.5, 71.5, 79.5]


def test_each_anchor_is_in_the_middle_of_its_127_px_window() -> None:
    """The window of cell k covers 8k-32 up to 8k+95, in pixels of the search crop."""
    windows = np.stack([8.0 * np.arange(CELLS) - 32, 8.0 * np.arange(CELLS) + 95])
    assert np.array_equal(anchors_cxcywh()[0, 0, :, 0], windows.mean(axis=0))


def test_corners_and_centres_name_the_same_boxes() -> None:
    corners, centres = anchors_xyxy(), anchors_cxcywh()
    assert np.array_equal((corners[..., :2] + corners[..., 2:]) / 2, centres[..., :2])
    assert np.array_equal(corners[..., 2:] - corners[..., :2], centres[..., 2:])


def test_offsets_in_numbers() -> None:
    anchor, box = np.array([100.0, 50.0, 64.0, 32.0]), np.array([116.0, 42.0, 128.0, 16.0])
    assert encode_boxes(box, anchor).tolist() == pytest.approx(
        [0.25, -0.25, math.log(2), -math.log(2)]
    )
    assert encode_boxes(anchor, anchor).tolist() == [0, 0, 0, 0]


@given(box=boxes, anchor=boxes)
def test_decoding_is_the_inverse_of_encoding(
    box: tuple[float, ...], anchor: tuple[float, ...]
) -> None:
    first, second = (np.array(values) for values in (box, anchor))
    np.testing.assert_allclose(
        decode_boxes(encode_boxes(first, second), second), first, rtol=1e-9, atol=1e-6
    )


@given(box=boxes)
def test_encoding_against_all_anchors_at_once(box: tuple[float, ...]) -> None:
    grid = anchors_cxcywh()
    decoded = decode_boxes(encode_boxes(np.array(box), grid), grid)
    np.testing.assert_allclose(decoded, np.broadcast_to(box, grid.shape), rtol=1e-9, atol=1e-6)
