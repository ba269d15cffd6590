"""Supervised sampling and anchor targets, held to a simulation that shares no code with them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from e3sn_lib.config import SamplerConfig
from e3sn_lib.sampling import (
    anchor_iou,
    anchor_targets,
    distribution_matrix,
    draw_samples,
    negative_pair_targets,
)

SIZES = np.array([(104, 32), (88, 40), (64, 64), (40, 80), (32, 96)], float)
CENTRED = (127.5 - 31.75, 127.5 - 31.75, 127.5 + 31.75, 127.5 + 31.75)
"""What an unchanged square target looks like in the search crop."""
UNTAUGHT = np.full((5, 25, 25), -1, np.int8)
Box = tuple[float, float, float, float]


def simulated_targets(count: int, shift: float, seed: int = 0) -> Iterator[Box]:
    """Aspect ratio log-uniform in 1/4..4, size as crops normalise it, scaled by up to 18 % in x and y apart, shifted."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        root = math.exp(rng.uniform(-math.log(2), math.log(2)))
        width, height = root, 1 / root
        side = math.sqrt((width + (width + height) / 2) * (height + (width + height) / 2))
        width, height = (
            127 / side * width * rng.uniform(0.82, 1.18),
            127 / side * height * rng.uniform(0.82, 1.18),
        )
        x, y = 127.5 + rng.uniform(-shift, shift, 2)
        yield x - width / 2, y - height / 2, x + width / 2, y + height / 2


def overlaps(box: Box) -> NDArray[np.float64]:
    """(sizes, 25, 25) IoU with boxes on the grid 31.5, 39.5, ..., 223.5."""
    centres = 31.5 + 8 * np.arange(25)

    def shared(low: float, high: float, lengths: NDArray[np.float64]) -> NDArray[np.float64]:
        start, end = centres - lengths[:, None] / 2, centres + lengths[:, None] / 2
        return np.clip(np.minimum(high, end) - np.maximum(low, start), 0, None)

    inside = (
        shared(box[1], box[3], SIZES[:, 1])[:, :, None]
        * shared(box[0], box[2], SIZES[:, 0])[:, None, :]
    )
    area = (box[2] - box[0]) * (box[3] - box[1])
    return inside / (area + SIZES.prod(axis=1)[:, None, None] - inside)


class TestOverlap:
    def test_equals_the_areas_worked_out_by_hand(self) -> None:
        for box in simulated_targets(20, 64):
            assert anchor_iou(box) == pytest.approx(overlaps(box), abs=1e-12)

    def test_of_a_square_in_the_middle(self) -> None:
        iou = anchor_iou(CENTRED)
        assert iou.shape == (5, 25, 25)
        assert iou[2, 12, 12] == pytest.approx(63.5**2 / 64**2)
        assert iou[2, 12, 13] == pytest.approx(iou[2, 11, 12])
        assert iou.argmax() == np.ravel_multi_index((2, 12, 12), iou.shape)

    def test_of_the_second_stage_s_grid(self) -> None:
        iou = anchor_iou((71.5 - 32, 71.5 - 32, 71.5 + 32, 71.5 + 32), cells=3, centre=71.5)
        assert iou[2, 1, 1] == pytest.approx(1)


class TestMatrix:
    def test_is_what_the_rule_says(self) -> None:
        iou = np.zeros((5, 25, 25))
        iou[:, 3, 4] = [0.1, 0.61, 0.2, 0.0, 0.59]  # any anchor above 0.6
        iou[:, 3, 5] = [0.1, 0.6, 0.2, 0.0, 0.3]  # not above
        iou[:, 3, 6] = 0.3  # not below
        iou[:, 3, 7] = [0.29, 0.1, 0.29, 0.0, 0.0]  # all below 0.3
        matrix = distribution_matrix(iou)
        assert matrix[3, 3:8].tolist() == [-1, 1, 0, 0, -1]
        assert (matrix == -1).sum() == 625 - 3

    @pytest.mark.parametrize(("shift", "positives"), [(64, 7.3), (8, 7.2), (0, 7.2)])
    def test_counts_of_simulated_images(self, shift: float, positives: float) -> None:
        """Simulated apart: about 7 positives per image, at most 12, 576 negatives; fewer than 3 positives in 0.1 % of images."""
        matrices = np.stack(
            [distribution_matrix(anchor_iou(box)) for box in simulated_targets(1500, shift)]
        )
        counts = (matrices == 1).sum(axis=(1, 2))
        assert counts.mean() == pytest.approx(positives, abs=0.15)
        assert np.median(counts) == 7
        assert counts.max() <= 13
        assert (counts < 3).mean() <= 0.003
        assert (counts == 0).mean() <= 0.001
        assert (matrices == -1).sum(axis=(1, 2)).mean() == pytest.approx(576, abs=1.5)


class TestDraws:
    config = SamplerConfig()

    def draw(self, matrix: NDArray[np.int8], has_mask: bool = True, seed: int = 0, **settings):
        config = SamplerConfig(**settings) if settings else self.config
        return draw_samples(matrix, UNTAUGHT, has_mask, config, np.random.default_rng(seed))

    def test_three_positives_and_a_negative(self) -> None:
        matrix = distribution_matrix(anchor_iou(CENTRED))
        for seed in range(50):
            samples = self.draw(matrix, seed=seed)
            assert samples.labels.tolist() == [1, 1, 1, -1]
            assert matrix[tuple(samples.cells.T)].tolist() == [1, 1, 1, -1]
            assert len({tuple(cell) for cell in samples.cells.tolist()}) == 4

    @pytest.mark.parametrize("available", [0, 1, 2])
    def test_fewer_positives_leave_room_for_negatives(self, available: int) -> None:
        matrix = np.full((25, 25), -1, np.int8)
        matrix[12, 12 : 12 + available] = 1
        samples = self.draw(matrix)
        assert samples.labels.tolist() == [1] * available + [-1] * (4 - available)
        assert matrix[tuple(samples.cells.T)].tolist() == samples.labels.tolist()

    def test_every_positive_is_as_likely(self) -> None:
        matrix, draws = distribution_matrix(anchor_iou(CENTRED)), 4000
        counts = np.zeros(matrix.shape)
        for seed in range(draws):
            samples = self.draw(matrix, seed=seed)
            counts[tuple(samples.cells[samples.labels == 1].T)] += 1
        share = 3 / (matrix == 1).sum()
        assert share < 1
        limit = 5 * math.sqrt(share * (1 - share) / draws)
        assert np.abs(counts[matrix == 1] / draws - share).max() < limit
        assert counts[matrix != 1].sum() == 0

    def test_places_that_nothing_fills_count_for_nothing(self) -> None:
        matrix = np.zeros((3, 3), np.int8)  # the whole grid is between the thresholds
        matrix[0, 0] = 1
        samples = self.draw(matrix)
        assert samples.labels.tolist() == [1, 0, 0, 0]
        assert samples.cells.shape == (4, 2)
        assert (samples.cells >= 0).all()
        assert (samples.cells < 3).all()

    def test_without_a_mask_nothing_is_taught(self) -> None:
        samples = self.draw(distribution_matrix(anchor_iou(CENTRED)), has_mask=False)
        assert samples.labels.tolist() == [0, 0, 0, 0]
        assert samples.cells.shape == (4, 2)

    @pytest.mark.parametrize(("samples", "positives"), [(1, 1), (8, 6), (16, 4), (625, 625)])
    def test_other_numbers_keep_their_shape(self, samples: int, positives: int) -> None:
        matrix = distribution_matrix(anchor_iou(CENTRED))
        drawn = self.draw(matrix, samples_per_image=samples, positives_per_image=positives)
        found = min(positives, int((matrix == 1).sum()))
        assert len(drawn.labels) == len(drawn.cells) == samples
        assert (drawn.labels == 1).sum() == found
        assert (drawn.labels == -1).sum() == min(samples - found, int((matrix == -1).sum()))

    def test_every_negative_is_as_likely(self) -> None:
        matrix = np.full((4, 4), -1, np.int8)
        matrix[1, 1] = 0
        counts = np.zeros((4, 4))
        for seed in range(3000):
            drawn = self.draw(matrix, seed=seed, samples_per_image=1, positives_per_image=1)
            counts[tuple(drawn.cells[0])] += 1
        assert counts[1, 1] == 0
        expected = 3000 / 15
        chi_square = ((counts[matrix == -1] - expected) ** 2 / expected).sum()
        assert chi_square < 36.1  # of 14 degrees, 0.1 %

    def test_the_two_stage_policy_takes_the_cells_of_drawn_anchors(self) -> None:
        labels = UNTAUGHT.copy()
        labels[1, 5, 6] = labels[3, 5, 6] = labels[0, 7, 8] = 1
        labels[2, 9, 9] = 0
        config, rng = SamplerConfig(policy="all_positive"), np.random.default_rng(0)
        samples = draw_samples(np.zeros((25, 25), np.int8), labels, True, config, rng)
        assert samples.cells[samples.labels == 1].tolist() == [[5, 6], [7, 8]]
        assert len(samples.labels) == 16
        assert (samples.labels[2:] == 0).all()


class TestAnchorTargets:
    def test_at_most_16_of_64_and_none_between(self) -> None:
        rng = np.random.default_rng(0)
        for box in simulated_targets(50, 64):
            iou = anchor_iou(box)
            labels = anchor_targets(iou, box, SamplerConfig(), rng).labels
            assert (labels == 1).sum() == min(16, (iou > 0.6).sum())
            assert (labels >= 0).sum() == 64
            assert (iou[labels == 1] > 0.6).all()
            assert (iou[labels == 0] < 0.3).all()

    def test_any_anchor_may_be_drawn(self) -> None:
        """Anchors lie in an order: without a random choice only the first would ever be taught."""
        iou, draws = anchor_iou(CENTRED), 300
        iou[0, 12, 12:24] = 0.7  # more positives than are drawn
        drawn = np.zeros((2, *iou.shape))
        for seed in range(draws):
            labels = anchor_targets(
                iou, CENTRED, SamplerConfig(), np.random.default_rng(seed)
            ).labels
            drawn[0] += labels == 0
            drawn[1] += labels == 1
        for counts, kind in zip(drawn, (iou < 0.3, iou > 0.6), strict=True):
            share = counts.sum() / draws / kind.sum()
            assert 0.01 < share < 1
            found = counts[kind] / draws
            assert np.abs(found - share).max() < 6 * math.sqrt(share * (1 - share) / draws)

    def test_anchors_on_each_of_several_look_alikes_are_negatives(self) -> None:
        """With one at either side of the target, no anchor that lies on one of them is left out."""
        target = (97.0, 97.0, 157.0, 157.0)
        others = ((170.0, 97.0, 230.0, 157.0), (25.0, 97.0, 85.0, 157.0))
        config, rng = SamplerConfig(anchor_positives=32), np.random.default_rng(0)
        plain, labels = (
            anchor_targets(anchor_iou(target), target, config, rng, alike_crop_xyxy=each).labels
            for each in ((), others)
        )
        on_others = [anchor_iou(box) > config.high for box in others]
        assert sum(each.sum() for each in on_others) <= 32
        for on_one in on_others:
            assert on_one.sum() > 3
            assert (labels[on_one] == 0).all()
            assert (plain[on_one] == 0).sum() < 4  # by chance
        assert [(each >= 0).sum() for each in (plain, labels)] == [64, 64]

    def test_too_few_negatives_are_all_taken(self) -> None:
        iou = np.full((5, 3, 3), 0.5)
        iou[0, 0, :2] = 0.1
        box, rng = (40, 40, 100, 100), np.random.default_rng(0)
        labels = anchor_targets(iou, box, SamplerConfig(), rng, centre=71.5).labels
        assert (labels == 0).sum() == 2
        assert (labels == 1).sum() == 0

    def test_offsets_lead_from_anchor_to_box(self) -> None:
        box, rng = (100.0, 90.0, 170.0, 140.0), np.random.default_rng(0)
        offsets = anchor_targets(anchor_iou(box), box, SamplerConfig(), rng).offsets
        assert offsets.shape == (4, 5, 25, 25)
        dx, dy, dw, dh = offsets[:, 2, 10, 14].astype(float)
        x, y = 31.5 + 8 * 14 + 64 * dx, 31.5 + 8 * 10 + 64 * dy
        found = (x, y, 64 * math.exp(dw), 64 * math.exp(dh))
        assert found == pytest.approx((135, 115, 70, 50), rel=1e-5)

    def test_any_anchor_of_the_middle_may_teach_a_negative_pair(self) -> None:
        drawn = np.zeros((5, 25, 25))
        for seed in range(400):
            drawn += negative_pair_targets(SamplerConfig(), np.random.default_rng(seed)).labels == 0
        share = 16 / (5 * 7 * 7)
        middle = drawn[:, 9:16, 9:16] / 400
        assert np.abs(middle - share).max() < 6 * math.sqrt(share * (1 - share) / 400)

    def test_half_of_a_negative_pair_lies_on_its_object(self) -> None:
        """The object stands far from the middle, so the other half is apart."""
        box = (10.0, 10.0, 74.0, 74.0)
        iou = anchor_iou(box)
        assert (iou > 0.6).sum() >= 8
        config, rng = SamplerConfig(high=0.4), np.random.default_rng(0)
        assert (iou > 0.4).sum() > 16
        labels = negative_pair_targets(config, rng, iou=iou).labels
        assert (labels[iou > 0.4] == 0).sum() == 8
        assert (labels[:, 9:16, 9:16] == 0).sum() == 8

    def test_any_anchor_on_its_object_may_teach_a_negative_pair(self) -> None:
        iou, config, draws = anchor_iou((10.0, 10.0, 74.0, 74.0)), SamplerConfig(high=0.4), 400
        on_object, drawn = iou > config.high, np.zeros(iou.shape)
        for seed in range(draws):
            rng = np.random.default_rng(seed)
            drawn += negative_pair_targets(config, rng, iou=iou).labels == 0
        share = 8 / on_object.sum()
        assert share < 0.5
        limit = 6 * math.sqrt(share * (1 - share) / draws)
        assert np.abs(drawn[on_object] / draws - share).max() < limit

    def test_a_negative_pair_teaches_the_middle_only(self) -> None:
        targets = negative_pair_targets(SamplerConfig(), np.random.default_rng(0))
        assert (targets.labels == 0).sum() == 16
        assert (targets.labels == 1).sum() == 0
        _, rows, columns = np.nonzero(targets.labels == 0)
        assert {rows.min(), rows.max(), columns.min(), columns.max()} <= set(range(9, 16))
        assert not targets.offsets.any()
