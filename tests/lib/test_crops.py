"""Crops keep a painted shape registered, and pasting back undoes them."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from e3sn_lib.geometry import (
    CROPS,
    TEMPLATE_SIZE,
    Box,
    Crop,
    box_from_mask,
    context_side,
    paste_patch,
    to_pixel_indices,
)

FRAME = (240, 320)
SEARCH = 255


def painted(
    box: Box, frame_hw: tuple[int, int] = FRAME
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A bright rectangle with a corner cut off, so that no flip or turn maps it to itself, on black; and its mask."""
    x1, y1, x2, y2 = box
    y, x = np.mgrid[: frame_hw[0], : frame_hw[1]] + 0.5
    mask = (
        (x > x1)
        & (x < x2)
        & (y > y1)
        & (y < y2)
        & ((x - x1) / (x2 - x1) + (y - y1) / (y2 - y1) > 0.4)
    )
    return np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255, mask


def centroid(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(x, y) in continuous coordinates."""
    return np.argwhere(mask).mean(axis=0)[::-1] + 0.5


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


class TestContext:
    def test_a_square_is_half_of_its_template(self) -> None:
        """SiamFC: context of half the size on either side makes a square's crop twice as wide, so 127 px show it in 63.5."""
        assert context_side((40, 40)) == pytest.approx(80)
        frame, mask = painted((100, 80, 180, 160))
        crop = Crop.square((140, 120), context_side((80, 80)), TEMPLATE_SIZE)
        assert crop.box_to_crop((100, 80, 180, 160)) == pytest.approx((31.75, 31.75, 95.25, 95.25))
        seen = box_from_mask(crop.image(frame, 0)[..., 0] > 127)
        assert seen is not None
        assert [seen[2] - seen[0], seen[3] - seen[1]] == pytest.approx([63.5, 63.5], abs=1)
        assert box_from_mask(crop.mask(mask)) == pytest.approx(seen, abs=1)

    @pytest.mark.parametrize(("width", "height"), [(64, 64), (20, 80), (300, 7)])
    def test_side_is_siamfc_s(self, width: float, height: float) -> None:
        context = (width + height) / 2
        assert context_side((width, height)) == pytest.approx(
            math.sqrt((width + context) * (height + context))
        )
        both = context_side([[width, height], [2.0 * width, 2.0 * height]])
        assert both == pytest.approx(context_side((width, height)) * np.array([1, 2]))


class TestOneMap:
    @settings(max_examples=40)
    @given(
        centre=st.tuples(st.floats(120, 200), st.floats(90, 150)),
        move=st.tuples(st.floats(-40, 40), st.floats(-40, 40)),
        scale=st.tuples(st.floats(0.8, 2.0), st.floats(0.8, 2.0)),
        degrees=st.floats(-30, 30),
        flip=st.booleans(),
    )
    def test_image_mask_and_centre_stay_together(self, centre, move, scale, degrees, flip) -> None:
        frame, mask = painted((135, 95, 185, 145))
        crop = Crop.affine(
            centre, (SEARCH / 2 + move[0], SEARCH / 2 + move[1]), scale, SEARCH, degrees, flip
        )
        seen, cut = crop.image(frame, 0)[..., 0] > 127, crop.mask(mask)
        assert np.array_equal(seen, cut)
        if not (cut[[0, -1]].any() or cut[:, [0, -1]].any()):  # all of it is in the crop
            expected = crop.matrix @ (*centroid(mask), 1.0)
            assert centroid(cut) == pytest.approx(expected, abs=0.5)
            edge = 170 * max(scale)  # how long the shape's outline is in the crop
            assert cut.sum() == pytest.approx(mask.sum() * scale[0] * scale[1], abs=edge / 2)

    def test_the_given_points_meet(self) -> None:
        crop = Crop.affine((100.0, 60.0), (130.0, 120.0), (1.5, 0.75), SEARCH, 17.0, True)
        assert crop.matrix @ (100.0, 60.0, 1.0) == pytest.approx([130.0, 120.0])

    def test_a_flip_mirrors_and_scales_act_along_the_crop(self) -> None:
        plain = Crop.affine((100.0, 60.0), (130.0, 120.0), (1.5, 0.75), SEARCH)
        flipped = Crop.affine((100.0, 60.0), (130.0, 120.0), (1.5, 0.75), SEARCH, flip=True)
        assert plain.matrix @ (110.0, 80.0, 1.0) == pytest.approx([145.0, 135.0])
        assert flipped.matrix @ (110.0, 80.0, 1.0) == pytest.approx([115.0, 135.0])

    def test_a_box_lies_where_its_corners_do(self) -> None:
        crop = Crop.affine((100.0, 60.0), (130.0, 120.0), (1.5, 0.75), SEARCH, flip=True)
        left, top, right, bottom = crop.box_to_crop((80.5, 50.0, 140.0, 70.25))
        assert (right, top) == pytest.approx(crop.matrix @ (80.5, 50.0, 1.0))
        assert (left, bottom) == pytest.approx(crop.matrix @ (140.0, 70.25, 1.0))

    def test_an_identity_changes_no_pixel(self) -> None:
        rng = np.random.default_rng(0)
        frame = rng.integers(0, 256, (SEARCH, SEARCH, 3), dtype=np.uint8)
        mask = frame[..., 0] > 127
        crop = Crop.square((SEARCH / 2, SEARCH / 2), SEARCH, SEARCH)
        assert np.array_equal(crop.image(frame, 0), frame)
        assert np.array_equal(crop.mask(mask), mask)
        assert np.array_equal(to_pixel_indices(crop.matrix), crop.matrix)

    def test_beyond_the_frame_is_the_fill_colour_and_no_object(self) -> None:
        frame = np.full((*FRAME, 3), 50, np.uint8)
        crop = Crop.square((0.0, 0.0), 100.0, 100)
        assert np.unique(
            crop.image(frame, (200.0, 10.0, 90.0))[:49].reshape(-1, 3), axis=0
        ).tolist() == [[200, 10, 90]]
        mask = crop.mask(np.ones(FRAME, bool))
        assert box_from_mask(mask) == (50, 50, 100, 100)


class TestPasteBack:
    """A window's true mask, pasted, is the frame's mask: crop and paste-back are inverse to each other."""

    def pasted(
        self, kind: str, box: Box, cell: tuple[int, int] = (12, 12)
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        _, mask = painted(box)
        x1, y1, x2, y2 = box
        row, column = cell
        side = context_side((x2 - x1, y2 - y1)) * SEARCH / TEMPLATE_SIZE
        away = (side / SEARCH * 8 * (column - 12), side / SEARCH * 8 * (row - 12))
        crop = CROPS[kind](((x1 + x2) / 2 - away[0], (y1 + y2) / 2 - away[1]), side, SEARCH)
        colour = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255
        left, top = 8 * column - 32, 8 * row - 32
        whole = np.pad(crop.image(colour, (0.0, 0.0, 0.0))[..., 0], 64)
        window = whole[top + 64 : top + 191, left + 64 : left + 191].astype(np.float32) / 255
        patch = paste_patch(window, (float(left), float(top)), crop, FRAME)
        return patch.in_frame(FRAME, crop.outside) > 0.5, mask

    @settings(max_examples=40)
    @given(
        corner=st.tuples(st.floats(20, 180), st.floats(20, 120)),
        size=st.tuples(st.floats(20, 110), st.floats(20, 110)),
        cell=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    )
    def test_the_shape_comes_back_to_its_place(self, corner, size, cell) -> None:
        pasted, mask = self.pasted(
            "exact", (*corner, corner[0] + size[0], corner[1] + size[1]), cell
        )
        assert overlap(pasted, mask) > 0.93
        assert centroid(pasted) == pytest.approx(centroid(mask), abs=0.5)

    def test_of_a_large_shape_nearly_every_pixel(self) -> None:
        pasted, mask = self.pasted("exact", (100.3, 60.2, 227.0, 187.0))
        assert overlap(pasted, mask) > 0.99
        assert centroid(pasted) == pytest.approx(centroid(mask), abs=0.05)

    def test_at_the_border_of_the_frame(self) -> None:
        pasted, mask = self.pasted("exact", (0.0, 0.0, 60.0, 60.0), (12, 12))
        assert overlap(pasted, mask) > 0.95

    @settings(max_examples=40)
    @given(
        corner=st.tuples(st.floats(20, 180), st.floats(20, 120)),
        size=st.tuples(st.floats(30, 110), st.floats(30, 110)),
    )
    def test_the_public_code_s_rounding_stays_below_two_pixels(self, corner, size) -> None:
        pasted, mask = self.pasted("siammask", (*corner, corner[0] + size[0], corner[1] + size[1]))
        assert centroid(pasted) == pytest.approx(centroid(mask), abs=2.0)

    @pytest.mark.parametrize(("kind", "outside"), [("exact", 0.0), ("siammask", -1.0)])
    def test_where_the_window_does_not_reach(self, kind: str, outside: float) -> None:
        crop = CROPS[kind]((100.0, 100.0), 255.0, SEARCH)
        patch = paste_patch(np.full((127, 127), 0.75, np.float32), (64.0, 64.0), crop, FRAME)
        pasted = patch.in_frame(FRAME, outside)
        assert pasted.shape == FRAME
        assert pasted.dtype == np.float32
        assert pasted[100, 100] == pytest.approx(0.75)
        assert np.unique(pasted[:, 180:]).tolist() == [outside]

    @settings(max_examples=60)
    @given(
        centre=st.tuples(st.floats(-50, 370), st.floats(-50, 290)),
        side=st.floats(30, 900),
        cell=st.tuples(st.integers(0, 24), st.integers(0, 24)),
        kind=st.sampled_from(sorted(CROPS)),
    )
    def test_the_part_with_the_window_is_that_of_the_whole_frame(
        self, centre, side, cell, kind
    ) -> None:
        crop, corner = CROPS[kind](centre, side, SEARCH), (8.0 * cell[0] - 32, 8.0 * cell[1] - 32)
        soft = np.random.default_rng(0).random((127, 127), np.float32)
        whole = cv2.warpAffine(
            soft,
            crop.window_to_frame(corner, FRAME),
            FRAME[::-1],
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=crop.outside,
        )
        patch = paste_patch(soft, corner, crop, FRAME)
        difference = np.abs(patch.in_frame(FRAME, crop.outside) - whole)
        assert difference.max() < (2e-3 if int(cv2.__version__.partition(".")[0]) >= 5 else 0.1)
