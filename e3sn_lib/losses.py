"""The three losses of equation 3. Functions of tensors; they know neither network nor training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e3sn_lib.config import Profile, StageConfig
from e3sn_lib.geometry import TEMPLATE_SIZE
from e3sn_lib.model.network import MARGIN
from e3sn_lib.model.windows import Cells, gather_windows

if TYPE_CHECKING:
    from e3sn_lib.data.pairs import Batch


class Counts(NamedTuple):
    """Over how many each loss is a mean; of a whole batch where its parts are computed apart: their losses then add up to its."""

    positives: Tensor
    """Anchors."""
    negatives: Tensor
    """Anchors."""
    images: Tensor
    windows: Tensor
    """Samples that the mask loss counts."""
    masks: Tensor
    """Positive samples."""


def count_targets(anchor_labels: Tensor, sample_labels: Tensor, negatives: str = "zero") -> Counts:
    """What there is to learn from labels (B, 5, n, n) of anchors and (N,) of samples; `negatives` as in `mask_loss`."""
    masks = (sample_labels > 0).sum()
    windows = (sample_labels != 0).sum() if negatives == "background" else masks
    images = torch.tensor(len(anchor_labels), device=anchor_labels.device)
    return Counts((anchor_labels == 1).sum(), (anchor_labels == 0).sum(), images, windows, masks)


def classification_loss(logits: Tensor, labels: Tensor, counts: Counts | None = None) -> Tensor:
    """Cross-entropy, half from positives and half from negatives (SiamRPN); a kind that is absent contributes 0.

    Args:
        logits: (B, 2, 5, n, n), background first.
        labels: (B, 5, n, n) 1 positive, 0 negative, -1 ignored.
        counts: of the whole batch, if this is a part of one.
    """
    log_probability = logits.log_softmax(dim=1)
    positive, negative = labels == 1, labels == 0
    over = (counts.positives, counts.negatives) if counts else (positive.sum().clamp(min=1), negative.sum().clamp(min=1))
    return -0.5 * (log_probability[:, 1][positive].sum() / over[0] + log_probability[:, 0][negative].sum() / over[1])


def regression_loss(
    prediction: Tensor, target: Tensor, labels: Tensor, kind: str = "smooth_l1", beta: float = 1.0, counts: Counts | None = None
) -> Tensor:
    """Distance of box offsets at positive anchors: summed over the 4 offsets, mean over an image's positives, mean over images.

    Args:
        prediction, target: (B, 4, 5, n, n).
        labels: (B, 5, n, n), 1 at positives.
        kind: ``smooth_l1`` (paper 3.2) or ``l1`` (SiamMask's code).
        beta: where smooth L1 turns linear.
        counts: of the whole batch, if this is a part of one.
    """
    if kind == "l1":
        distance = (prediction - target).abs().sum(dim=1)
    else:
        distance = F.smooth_l1_loss(prediction, target, reduction="none", beta=beta).sum(dim=1)
    positive = (labels == 1).to(distance.dtype)
    weight = positive / (positive.sum(dim=(1, 2, 3), keepdim=True) + 1e-6)
    return (distance * weight).sum() / (counts.images if counts else len(labels))


def mask_loss(
    logits: Tensor, pixel_labels: Tensor, sample_labels: Tensor, negatives: str = "zero", counts: Counts | None = None
) -> Tensor:
    """Eq. 4: logistic loss per pixel, weighted by (1 + y) / 2, as a mean over the counting samples and their pixels.

    The mean (SiamMask) in place of the paper's sum over n keeps the weight 32 meaningful at any batch size. Pixels beyond the
    search crop have label 0: they add the constant log 2 and no gradient.

    Args:
        logits: (N, S, S); smaller ones (the 63 px base head) are brought bilinearly to the labels' size.
        pixel_labels: (N, 127, 127) m of eq. 4: +1 object, -1 background, 0 beyond the crop.
        sample_labels: (N,) y of eq. 4: +1, -1, or 0 for fill-ins.
        negatives: ``zero`` is eq. 4 literally; ``background`` teaches that a negative window holds no object.
        counts: of the whole batch, if this is a part of one.
    """
    if logits.shape[-1] != pixel_labels.shape[-1]:
        logits = F.interpolate(logits[:, None], size=pixel_labels.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
    weight = (sample_labels > 0).to(logits.dtype)
    if negatives == "background":
        negative = (sample_labels < 0)[:, None, None]
        pixel_labels = torch.where(negative, -pixel_labels.abs(), pixel_labels)
        weight = (sample_labels != 0).to(logits.dtype)
    per_sample = F.softplus(-pixel_labels * logits).mean(dim=(1, 2))
    return (per_sample * weight).sum() / (counts.windows if counts else weight.sum().clamp(min=1))


def mask_windows(masks: Tensor, cells: Cells, margin: int) -> Tensor:
    """The candidate windows of search masks: (B, S, S) with +1 and -1 to (N, 127, 127), 0 beyond the crop.

    `margin` is how far the first window reaches beyond the crop (32 px for 255 px search crops).
    """
    top, left = 8 * cells.row - margin, 8 * cells.column - margin
    return gather_windows(masks[:, None], cells.image, top, left, TEMPLATE_SIZE)[:, 0]


def mask_iou(logits: Tensor, pixel_labels: Tensor, threshold: float = 0.0) -> Tensor:
    """(N,) intersection over union of predicted (logit above threshold) and true masks; 1 where both are empty."""
    if logits.shape[-1] != pixel_labels.shape[-1]:
        logits = F.interpolate(logits[:, None], size=pixel_labels.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
    predicted, true = (logits > threshold) & (pixel_labels != 0), pixel_labels > 0
    union = (predicted | true).sum(dim=(1, 2))
    return torch.where(union > 0, (predicted & true).sum(dim=(1, 2)) / union.clamp(min=1), 1.0)


def compute_losses(
    model: nn.Module, batch: Batch, profile: Profile, stage: StageConfig, counts: Counts | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of eq. 3 and its parts, with the mean mask IoU of the positive samples.

    Of several parts of a batch the results add up to those of the batch, given its `counts`.
    """
    config = profile.loss
    output = model(batch.template, batch.search, batch.cells, stage.mask)
    pixel_labels = mask_windows(batch.mask.float(), batch.cells, MARGIN[stage.search_size])
    parts = {"mask": mask_loss(output.mask_logits, pixel_labels, batch.sample_labels, config.negatives, counts)}
    total = config.mask_weight * parts["mask"]
    if stage.train_location:
        parts["cls"] = classification_loss(output.cls, batch.anchor_labels, counts)
        parts["loc"] = regression_loss(output.loc, batch.offsets, batch.anchor_labels, config.loc, config.loc_beta, counts)
        total = total + config.cls_weight * parts["cls"] + config.loc_weight * parts["loc"]
    with torch.no_grad():
        positive = batch.sample_labels > 0
        iou = mask_iou(output.mask_logits[positive], pixel_labels[positive])
        parts["mask_iou"] = iou.sum() / (counts.masks if counts else len(iou))
    return total, parts
