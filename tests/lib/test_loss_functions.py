"""The three losses in closed form and against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from e3sn_lib.losses import (
    classification_loss,
    count_targets,
    mask_iou,
    mask_loss,
    mask_windows,
    regression_loss,
)
from e3sn_lib.model.windows import Cells

LOG2 = math.log(2)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def signs(*shape: int) -> Tensor:
    return torch.where(torch.rand(shape) < 0.4, 1.0, -1.0)


class TestClassification:
    labels = torch.full((2, 5, 25, 25), -1)
    labels[0, 0, 0, :4] = 1
    labels[:, 1, 3, :10] = 0

    def test_undecided_logits_cost_log_2(self) -> None:
        loss = classification_loss(torch.zeros(2, 2, 5, 25, 25), self.labels)
        assert loss.item() == pytest.approx(LOG2)

    def test_is_half_of_torch_s_cross_entropy_of_either_kind(self) -> None:
        logits = torch.randn(2, 2, 5, 25, 25)
        halves = [
            F.cross_entropy(logits, torch.where(self.labels == kind, kind, -1), ignore_index=-1)
            for kind in (1, 0)
        ]
        loss = classification_loss(logits, self.labels)
        torch.testing.assert_close(loss, (halves[0] + halves[1]) / 2)

    def test_the_second_logit_is_the_object_s(self) -> None:
        logits = torch.zeros(2, 2, 5, 25, 25)
        logits[:, 1] = 20.0
        only_positives = torch.where(self.labels == 1, 1, -1)
        assert classification_loss(logits, only_positives) < 1e-6
        only_negatives = torch.where(self.labels == 0, 0, -1)
        assert classification_loss(logits, only_negatives).item() == pytest.approx(10, rel=1e-4)

    @pytest.mark.parametrize("absent", [0, 1])
    def test_an_absent_kind_contributes_nothing(self, absent: int) -> None:
        labels = torch.where(self.labels == absent, -1, self.labels)
        loss = classification_loss(torch.zeros(2, 2, 5, 25, 25), labels)
        assert loss.item() == pytest.approx(LOG2 / 2)

    def test_without_labels_loss_and_gradient_are_zero(self) -> None:
        logits = torch.randn(1, 2, 5, 25, 25, requires_grad=True)
        loss = classification_loss(logits, torch.full((1, 5, 25, 25), -1))
        loss.backward()
        assert loss.item() == 0
        assert logits.grad is not None
        assert logits.grad.eq(0).all()

    def test_ignored_anchors_have_no_gradient(self) -> None:
        logits = torch.randn(2, 2, 5, 25, 25, requires_grad=True)
        (gradient,) = torch.autograd.grad(classification_loss(logits, self.labels), logits)
        touched = gradient.ne(0).any(dim=1)
        assert torch.equal(touched, self.labels >= 0)


class TestRegression:
    labels = torch.zeros(2, 5, 3, 3, dtype=torch.int64)
    labels[0, 2, 1, 1] = labels[0, 2, 1, 2] = labels[0, 0, 0, 0] = 1
    labels[1, 4, 2, 2] = 1

    @pytest.mark.parametrize("beta", [1.0, 0.1])
    def test_is_torch_s_smooth_l1_at_the_positives(self, beta: float) -> None:
        prediction, target = torch.randn(2, 4, 5, 3, 3), torch.randn(2, 4, 5, 3, 3)
        images = []
        for image in range(2):
            where = self.labels[image] == 1
            chosen = prediction[image][:, where], target[image][:, where]
            images.append(F.smooth_l1_loss(*chosen, reduction="sum", beta=beta) / where.sum())
        loss = regression_loss(prediction, target, self.labels, beta=beta)
        torch.testing.assert_close(loss, torch.stack(images).mean())

    def test_in_numbers(self) -> None:
        prediction, target = torch.zeros(2, 4, 5, 3, 3), torch.zeros(2, 4, 5, 3, 3)
        # 0.125 + 0.125 + 2.5, of three positives, and four times 1.5, of one
        prediction[0, :, 2, 1, 1] = torch.tensor([0.5, -0.5, 3.0, 0.0])
        prediction[1, :, 4, 2, 2] = 2.0
        for kind, expected in (("smooth_l1", (2.75 / 3 + 6) / 2), ("l1", (4 / 3 + 8) / 2)):
            loss = regression_loss(prediction, target, self.labels, kind=kind)
            assert loss.item() == pytest.approx(expected, rel=1e-5)

    def test_without_positives_loss_and_gradient_are_zero(self) -> None:
        prediction = torch.randn(1, 4, 5, 3, 3, requires_grad=True)
        loss = regression_loss(prediction, torch.randn(1, 4, 5, 3, 3), torch.zeros(1, 5, 3, 3))
        loss.backward()
        assert loss.item() == 0
        assert prediction.grad is not None
        assert prediction.grad.eq(0).all()


class TestMask:
    def test_undecided_logits_cost_log_2(self) -> None:
        labels = torch.tensor([1, 1, 1, -1])
        for truth in (signs(4, 127, 127), torch.zeros(4, 127, 127)):
            assert mask_loss(torch.zeros(4, 127, 127), truth, labels).item() == pytest.approx(LOG2)

    def test_is_torch_s_soft_margin_loss_of_the_positives(self) -> None:
        logits, truth = 3 * torch.randn(4, 127, 127), signs(4, 127, 127)
        torch.testing.assert_close(
            mask_loss(logits, truth, torch.tensor([1, -1, 1, 0])),
            F.soft_margin_loss(logits[[0, 2]], truth[[0, 2]]),
        )
        torch.testing.assert_close(
            mask_loss(logits, truth, torch.ones(4)), F.soft_margin_loss(logits, truth)
        )

    def test_large_logits_stay_finite(self) -> None:
        logits, truth = torch.full((1, 127, 127), 1e4), torch.full((1, 127, 127), -1.0)
        assert mask_loss(logits, truth, torch.ones(1)).item() == pytest.approx(1e4)

    def test_pixels_beyond_the_crop_add_a_constant_and_no_gradient(self) -> None:
        logits, truth = torch.randn(2, 127, 127, requires_grad=True), signs(2, 127, 127)
        inside = F.soft_margin_loss(logits[:, 32:], truth[:, 32:])
        truth[:, :32] = 0
        loss = mask_loss(logits, truth, torch.ones(2))
        torch.testing.assert_close(loss, inside * 95 / 127 + LOG2 * 32 / 127)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient[:, :32].eq(0).all()
        assert gradient[:, 32:].ne(0).all()
        expected = -truth * torch.sigmoid(-truth * logits.detach()) / truth.numel()
        torch.testing.assert_close(gradient, expected)

    def test_without_positives_loss_and_gradient_are_zero(self) -> None:
        logits = torch.randn(2, 127, 127, requires_grad=True)
        loss = mask_loss(logits, signs(2, 127, 127), torch.tensor([-1, 0]))
        loss.backward()
        assert loss.item() == 0
        assert logits.grad is not None
        assert logits.grad.eq(0).all()

    def test_negatives_as_background(self) -> None:
        """The pixels of a negative window count as background, whatever object they show; those beyond the crop stay apart."""
        logits, truth = torch.randn(3, 127, 127), signs(3, 127, 127)
        truth[1, :10] = 0
        expected = truth.clone()
        expected[1, 10:] = -1
        found = mask_loss(logits, truth, torch.tensor([1, -1, 0]), negatives="background")
        torch.testing.assert_close(found, mask_loss(logits[:2], expected[:2], torch.ones(2)))

    @pytest.mark.parametrize(("negatives", "windows"), [("zero", 2), ("background", 3)])
    def test_with_its_own_counts_a_batch_has_the_same_loss(
        self, negatives: str, windows: int
    ) -> None:
        """Training gives the counts; without them each loss is a mean by itself."""
        logits, truth = torch.randn(4, 127, 127), signs(4, 127, 127)
        anchors, labels = torch.tensor([[1, 0, 0, -1]] * 3), torch.tensor([1, -1, 1, 0])
        counts = count_targets(anchors, labels, negatives)
        assert [int(count) for count in counts] == [3, 6, 3, windows, 2]
        found = mask_loss(logits, truth, labels, negatives, counts)
        torch.testing.assert_close(found, mask_loss(logits, truth, labels, negatives))

    def test_the_base_head_is_brought_to_127(self) -> None:
        small, truth = torch.randn(2, 63, 63), signs(2, 127, 127)
        large = F.interpolate(small[None], size=127, mode="bilinear", align_corners=True)[0]
        assert torch.equal(
            mask_loss(small, truth, torch.ones(2)), mask_loss(large, truth, torch.ones(2))
        )
        torch.testing.assert_close(large[:, ::126, ::126], small[:, ::62, ::62])


class TestWindows:
    def test_hold_the_pixels_of_their_place(self) -> None:
        """Cell k covers pixels 8k-32 up to 8k+95; what is beyond the crop is 0."""
        masks = torch.arange(1.0, 2 * 255 * 255 + 1).reshape(2, 255, 255)
        cells = Cells(torch.tensor([1, 0, 0]), torch.tensor([12, 0, 24]), torch.tensor([5, 0, 24]))
        windows = mask_windows(masks, cells, 32)
        assert torch.equal(windows[0], masks[1, 64:191, 8:135])
        assert windows[1, :32].eq(0).all()
        assert torch.equal(windows[1, 32:, 32:], masks[0, :95, :95])
        assert torch.equal(windows[2, :95, :95], masks[0, 160:, 160:])
        assert windows[2, 95:].eq(0).all()

    def test_of_the_second_stage_never_leave_the_crop(self) -> None:
        masks = torch.ones(1, 143, 143)
        cells = torch.cartesian_prod(torch.arange(1), torch.arange(3), torch.arange(3))
        assert mask_windows(masks, Cells(*cells.T), 0).eq(1).all()


class TestMaskIou:
    def test_in_numbers(self) -> None:
        truth = torch.full((4, 127, 127), -1.0)
        truth[:3, 10:20, 10:20] = 1
        logits = torch.full((4, 127, 127), -1.0)
        logits[0, 10:20, 10:20] = 1
        logits[1, 10:20, 15:25] = 1
        truth[2, 10:15] = 0  # beyond the crop counts on neither side
        logits[2, 10:20, 10:20] = 1
        assert mask_iou(logits, truth).tolist() == pytest.approx([1, 50 / 150, 1, 1])
        assert mask_iou(logits - 2, truth).tolist() == [0, 0, 0, 1]
