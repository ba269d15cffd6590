"""Edges of masks that follow colours."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from e3sn_lib.geometry import Patch
from e3sn_lib.metrics.measures import boundary_accuracy, region_similarity
from e3sn_lib.tracking import edges
from e3sn_lib.tracking.edges import fit_to_colours
from e3sn_lib.tracking.tracker import labels_from_patches

RED, BLUE = (200, 60, 50), (40, 80, 190)


def coarse(mask: NDArray[np.bool_], shift: int = 0) -> NDArray[np.float32]:
    """Return a mask as the network gives it: blurred, and moved by some pixels."""
    moved = np.roll(mask, shift, axis=1).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(moved, (0, 0), 9))


def star(height: int = 240, width: int = 320) -> NDArray[np.bool_]:
    y, x = np.indices((height, width)) - np.array([height, width])[:, None, None] / 2
    return np.hypot(x, y) < 0.3 * height * (1 + 0.25 * np.cos(5 * np.arctan2(y, x)))


def painted(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(0, 6, (*mask.shape, 3))
    return (np.where(mask[..., None], RED, BLUE) + noise).clip(0, 255).astype(np.uint8)


def whole(soft: NDArray[np.float32]) -> Patch:
    return Patch(soft, slice(0, soft.shape[0]), slice(0, soft.shape[1]))


@pytest.mark.parametrize("scale", [1, 4])
def test_the_edges_of_a_coarse_mask_move_to_those_of_the_object(scale: int) -> None:
    mask = star(240 * scale // 2, 320 * scale // 2)
    before = whole(coarse(mask, 5 * scale // 2))
    after = fit_to_colours(painted(mask), before, 0.5)[0]
    assert region_similarity(before.soft > 0.5, mask) < 0.93
    assert region_similarity(after.soft > 0.5, mask) > 0.98
    assert boundary_accuracy(after.soft > 0.5, mask) > 0.99


def test_a_mask_without_colours_to_follow_stays() -> None:
    """Only the points of the star become rounder."""
    mask = star()
    soft = coarse(mask)
    after = fit_to_colours(np.full((*mask.shape, 3), 127, np.uint8), whole(soft), 0.5)[0]
    assert region_similarity(after.soft > 0.5, soft > 0.5) > 0.93


def test_something_of_the_same_colour_far_from_the_object_is_not_taken() -> None:
    mask = star()
    frame = painted(mask)
    frame[100:140, 280:] = RED
    after = fit_to_colours(frame, whole(coarse(mask)), 0.5)[0]
    assert not (after.soft[100:140, 280:] > 0.5).any()


def test_colours_of_earlier_frames_correct_a_mask_that_misses_a_part() -> None:
    mask, rows = star(), np.arange(240)[:, None]
    frame = painted(mask)
    frame[mask & (rows > 120)] = (90, 160, 60)
    _, known = fit_to_colours(frame, whole(coarse(mask)), 0.5)
    part = whole(coarse(mask & (rows < 140)))  # of the green half it shows some rows only
    alone, _ = fit_to_colours(frame, part, 0.5)
    remembered, _ = fit_to_colours(frame, part, 0.5, known)
    before, after = (region_similarity(each.soft > 0.5, mask) for each in (alone, remembered))
    assert after > before + 0.02


def test_colours_count_by_the_power_of_three_quarters() -> None:
    """Both halves have one colour each, so the posterior has a closed form."""
    left = np.indices((80, 80))[1] < 40
    frame = np.where(left[..., None], RED, BLUE).astype(np.uint8)
    prior = np.where(left, 0.7, 0.3).astype(np.float32)
    odds = (0.7 / 0.3) * (0.7 / 0.3) ** 0.75  # of 100 object pixels, 70 are red; of others, 30
    expected = odds / (1 + odds)
    below, above = (
        fit_to_colours(frame, whole(prior), expected + step)[0].soft[:, 10:30] > 0
        for step in (-0.003, 0.003)
    )
    assert below.all()
    assert not above.any()


def test_only_the_part_under_the_window_counts() -> None:
    mask = star()
    rows, columns = slice(30, 200), slice(60, 250)
    soft = coarse(mask)[rows, columns]
    frame = painted(mask)
    one = fit_to_colours(frame, Patch(soft, rows, columns), 0.5)[0]
    frame[:30] = frame[200:] = 255
    other = fit_to_colours(frame, Patch(soft, rows, columns), 0.5)[0]
    assert (one.rows, one.columns, one.soft.shape) == (rows, columns, soft.shape)
    assert np.array_equal(one.soft, other.soft)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (1, 300), (3, 2)])
@pytest.mark.parametrize("value", [-1.0, 0.0, 0.4, 1.0])
def test_patches_of_any_size_and_value(shape: tuple[int, int], value: float) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    after = fit_to_colours(frame, whole(np.full(shape, value, np.float32)), 0.5)[0]
    assert after.soft.shape == shape
    assert ((after.soft >= 0) & (after.soft <= 1)).all()
    assert ((after.soft > 0.5) == (value > 0.5)).all()


def test_the_network_decides_where_masks_of_two_objects_overlap() -> None:
    """Both are red, so colours give both of them the pixels that both may have."""
    left, right = (np.roll(star(), shift, axis=1) for shift in (-40, 40))
    frame = painted(left | right)
    soft = [coarse(left), coarse(right)]
    fitted = {
        number: fit_to_colours(frame, whole(each), 0.5)[0] for number, each in enumerate(soft, 1)
    }
    ids = labels_from_patches(fitted, frame.shape[:2], 0.5)
    both = (fitted[1].soft > 0.5) & (fitted[2].soft > 0.5)
    assert both.sum() > 100
    assert np.array_equal(ids[both], np.where(soft[1] > soft[0], 2, 1)[both])
    masks = [each.soft > 0.5 for each in fitted.values()]
    assert np.array_equal(ids > 0, masks[0] | masks[1])


def test_the_filter_is_the_least_squares_fit_of_its_inventors() -> None:
    """One window of He, Sun and Tang, equations 14 and 15, against ridge regression."""
    rng = np.random.default_rng(1)
    image, soft = rng.random((5, 5, 3)).astype(np.float32), rng.random((5, 5)).astype(np.float32)
    side = 2 * max(round(edges.RADIUS * 5), 1) + 1
    assert side == 3
    slopes, _ = edges._linear(image, soft)
    found = []
    for row in range(1, 4):
        for column in range(1, 4):
            part = np.s_[row - 1 : row + 2, column - 1 : column + 2]
            x, y = image[part].reshape(9, 3).astype(float), soft[part].ravel().astype(float)
            x, y = x - x.mean(axis=0), y - y.mean()
            found.append(np.linalg.solve(x.T @ x + 9 * edges.VARIANCE * np.eye(3), x.T @ y))
    np.testing.assert_allclose(slopes[2, 2], np.mean(found, axis=0), rtol=2e-3, atol=2e-3)
