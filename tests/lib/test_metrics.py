"""The measures against the definition written out in full, the official evaluator's values and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from e3sn_lib.metrics.measures import (
    Statistics,
    boundary_accuracy,
    boundary_map,
    boundary_radius,
    region_similarity,
    statistics,
)

Mask = NDArray[np.bool_]


def box(top: int, bottom: int, left: int, right: int) -> Mask:
    mask = np.zeros((480, 854), bool)
    mask[top:bottom, left:right] = True
    return mask


NOTHING, EVERYTHING, BOX = box(0, 0, 0, 0), box(0, 480, 0, 854), box(100, 200, 100, 300)

OFFICIAL_VALUES = {
    "both empty": (NOTHING, NOTHING, 1, 1),
    "only the prediction": (NOTHING, BOX, 0, 0),
    "only the truth": (BOX, NOTHING, 0, 0),
    "identical": (BOX, BOX, 1, 1),
    "both the whole frame": (EVERYTHING, EVERYTHING, 1, 1),
    "prediction the whole frame": (BOX, EVERYTHING, 0.048790, 0),
    "4 px down": (BOX, box(104, 204, 100, 300), 0.923077, 1),
    "8 px diagonally": (BOX, box(108, 208, 108, 308), 0.790831, 0.975),
    "9 px right": (BOX, box(100, 200, 109, 309), 0.913876, 0.693333),
    "20 px diagonally": (BOX, box(120, 220, 120, 320), 0.5625, 0.056667),
    "half overlap": (BOX, box(100, 200, 200, 400), 0.333333, 0.39),
    "one pixel": (box(5, 6, 5, 6), box(5, 6, 5, 6), 1, 1),
    "at the bottom right corner": (box(400, 480, 800, 854), box(404, 480, 804, 854), 0.879630, 1),
    "only the corner pixel": (box(479, 480, 853, 854), box(479, 480, 853, 854), 1, 1),
}


@pytest.mark.parametrize(
    ("truth", "prediction", "j", "f"), OFFICIAL_VALUES.values(), ids=OFFICIAL_VALUES
)
def test_the_official_evaluator_gives_the_same(
    truth: Mask, prediction: Mask, j: float, f: float
) -> None:
    assert region_similarity(prediction, truth) == pytest.approx(j, abs=5e-7)
    assert boundary_accuracy(prediction, truth) == pytest.approx(f, abs=5e-7)


@pytest.mark.parametrize(
    ("shape", "radius"), [((480, 854), 8), ((1080, 1920), 18), ((120, 160), 2), ((64, 64), 1)]
)
def test_the_tolerance_is_a_share_of_the_diagonal_or_pixels(
    shape: tuple[int, int], radius: int
) -> None:
    assert boundary_radius(shape) == radius
    assert boundary_radius(shape, 3) == 3


def boundary_by_definition(mask: Mask) -> set[tuple[int, int]]:
    height, width = mask.shape
    return {
        (y, x)
        for y, x in np.ndindex(height, width)
        for v, u in ((y, x + 1), (y + 1, x), (y + 1, x + 1))
        if v < height and u < width and mask[y, x] != mask[v, u]
    }


def f_by_definition(prediction: Mask, truth: Mask, radius: int) -> float:
    found, wanted = boundary_by_definition(prediction), boundary_by_definition(truth)

    def matched(some: set[tuple[int, int]], others: set[tuple[int, int]]) -> float:
        near = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in some]
        return sum(near) / len(near) if near else 1.0

    precision, recall = matched(found, wanted), matched(wanted, found)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[Mask, Mask]:
    """Pairs of noise or of rectangles that may touch the frame's border or be empty."""
    shape = draw(array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))

    def rectangle() -> Mask:
        (y, v), (x, u) = (
            sorted(draw(st.tuples(st.integers(0, side), st.integers(0, side)))) for side in shape
        )
        mask = np.zeros(shape, bool)
        mask[y:v, x:u] = True
        return mask

    noise = arrays(bool, shape)
    return tuple(draw(noise) if draw(st.booleans()) else rectangle() for _ in range(2))


@given(mask_pairs(), st.integers(1, 6))
def test_cropping_and_dilation_change_nothing(pair: tuple[Mask, Mask], radius: int) -> None:
    for mask in pair:
        found = {tuple(pixel) for pixel in np.argwhere(boundary_map(mask)).tolist()}
        assert found == boundary_by_definition(mask)
    expected = f_by_definition(*pair, radius)
    assert boundary_accuracy(*pair, radius) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_scattered_objects_in_a_full_frame(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, prediction = np.zeros((2, 120, 160), bool)
    for mask in (truth, prediction):
        for y, x, height, width in random.integers((0, 0, 1, 1), (120, 160, 40, 40), (4, 4)):
            mask[y : y + height, x : x + width] ^= True
    expected = f_by_definition(prediction, truth, 2)
    assert boundary_accuracy(prediction, truth) == pytest.approx(expected, abs=1e-12)


@given(mask_pairs())
def test_both_measures_are_shares_symmetric_and_one_for_equal_masks(
    pair: tuple[Mask, Mask],
) -> None:
    one, other = pair
    for measure in (region_similarity, boundary_accuracy):
        assert measure(one, one) == 1
        assert 0 <= measure(one, other) <= 1
        assert measure(one, other) == pytest.approx(measure(other, one), abs=1e-12)
    assert (region_similarity(one, other) == 1) == np.array_equal(one, other)


def test_integers_count_as_objects_where_not_zero() -> None:
    prediction = box(104, 204, 100, 300)
    grey, ids = 255 * prediction.astype(np.uint8), np.asfortranarray(BOX.astype(np.int64))
    for measure in (region_similarity, boundary_accuracy):
        assert measure(grey, ids) == measure(prediction, BOX)


@pytest.mark.parametrize("measure", [region_similarity, boundary_accuracy])
@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (np.zeros((480, 853), bool), r"size: prediction \(480, 853\), truth \(480, 854\)"),
        (np.zeros((480, 854)), "bool or integer, got float64"),
    ],
)
def test_other_shapes_and_soft_masks_are_refused(measure, prediction, message) -> None:
    with pytest.raises(ValueError, match=message):
        measure(prediction, BOX)
    for shape in ((0, 5), (2, 3, 4)):
        with pytest.raises(ValueError, match=r"must be \(height, width\)"):
            measure(np.zeros(shape, bool), np.zeros(shape, bool))


def test_a_tolerance_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="tolerance"):
        boundary_accuracy(BOX, BOX, -1)


@pytest.mark.parametrize(
    ("count", "recall", "decay"),
    [
        (2, 0.5, 1.0),
        (3, 0.333333, 0.75),
        (4, 0.5, 0.666667),
        (5, 0.4, 0.75),
        (10, 0.5, 0.777778),
        (48, 0.5, 0.744681),
        (78, 0.5, 0.753247),
        (255, 0.498039, 0.75),
    ],
)
def test_the_official_statistics_of_a_ramp(count: int, recall: float, decay: float) -> None:
    assert statistics(np.linspace(1, 0, count)) == pytest.approx((0.5, recall, decay), abs=5e-7)


@pytest.mark.parametrize(
    ("count", "first_quarter_end", "last_quarter_start"),
    [(256, 64, 191), (257, 64, 192), (300, 75, 224), (400, 100, 299)],
)
def test_decay_is_right_beyond_255_frames(
    count: int, first_quarter_end: int, last_quarter_start: int
) -> None:
    closed_form = (last_quarter_start + count - 1 - first_quarter_end) / 2 / (count - 1)
    assert statistics(np.linspace(1, 0, count)).decay == pytest.approx(closed_form, abs=1e-12)


def test_statistics_of_one_frame() -> None:
    assert statistics([0.7]) == Statistics(0.7, 1.0, 0.0)


def test_recall_is_strictly_above_one_half() -> None:
    assert statistics([0.5, 0.5, 0.6, 0.4]).recall == 0.25


def test_nan_is_left_out() -> None:
    assert statistics([np.nan, 1.0, 0.0, 0.0, np.nan]) == pytest.approx((1 / 3, 1 / 3, 1.0))
    assert np.isnan(statistics([np.nan, np.nan, 1.0, 1.0, 1.0]).decay)


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [[0.5, 0.5]]])
def test_no_value_is_an_error_and_never_a_score(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one value"):
        statistics(values)


@given(arrays(float, st.integers(1, 600), elements=st.floats(0, 1)))
def test_backwards_decay_changes_its_sign(values: NDArray[np.float64]) -> None:
    """The quarters are symmetric but for rounding, so only lengths 4n + 1 mirror exactly."""
    values = values[: max(1, (len(values) - 1) // 4 * 4 + 1)]
    forwards, backwards = statistics(values), statistics(values[::-1])
    assert backwards == pytest.approx((forwards.mean, forwards.recall, -forwards.decay), abs=1e-9)
    assert -1 <= forwards.decay <= 1
