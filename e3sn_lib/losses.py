"""The three losses of equation 3, as functions of tensors."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e3sn_lib.config import Profile, StageConfig
from e3sn_lib.data.pairs import Batch
from e3sn_lib.geometry import TEMPLATE_SIZE
from e3sn_lib.model.network import MARGIN
from e3sn_lib.model.windows import Cells, cut_windows


class Counts(NamedTuple):
    """The denominators of the losses, each a tensor of one number.

    A loss that gets the counts of a whole batch may be given a part of it. The losses of the parts
    then add up to the loss of the batch.
    """

    positives: Tensor
    """Anchors with label 1."""
    negatives: Tensor
    """Anchors with label 0."""
    images: Tensor
    windows: Tensor
    """Candidate windows that the mask loss counts."""
    masks: Tensor
    """Positive candidate windows."""


def count_targets(anchor_labels: Tensor, sample_labels: Tensor, negatives: str = "zero") -> Counts:
    """Count what the losses are means over; arguments are those of the losses."""
    masks = (sample_labels > 0).sum()
    windows = (sample_labels != 0).sum() if negatives == "background" else masks
    images = torch.tensor(len(anchor_labels), device=anchor_labels.device)
    return Counts((anchor_labels == 1).sum(), (anchor_labels == 0).sum(), images, windows, masks)


def classification_loss(logits: Tensor, labels: Tensor, counts: Counts | None = None) -> Tensor:
    """Return the cross-entropy, half from positives and half from negatives (SiamRPN).

    A kind of anchor that is absent adds 0.

    Args:
        logits: (B, 2, 5, n, n), background first.
        labels: (B, 5, n, n) 1 positive, 0 negative, -1 ignored.
    """
    log_probability = logits.log_softmax(dim=1)
    positive, negative = labels == 1, labels == 0
    positives = counts.positives if counts else positive.sum().clamp(min=1)
    negatives = counts.negatives if counts else negative.sum().clamp(min=1)
    object_loss = log_probability[:, 1][positive].sum() / positives
    background_loss = log_probability[:, 0][negative].sum() / negatives
    return -0.5 * (object_loss + background_loss)


def regression_loss(
    prediction: Tensor,
    target: Tensor,
    labels: Tensor,
    kind: str = "smooth_l1",
    beta: float = 1.0,
    counts: Counts | None = None,
) -> Tensor:
    """Return the distance of box offsets at positive anchors.

    It is summed over the 4 offsets, then averaged over the positives of an image, then over images.

    Args:
        prediction, target: (B, 4, 5, n, n).
        labels: (B, 5, n, n), 1 at positives.
        kind: ``smooth_l1`` (paper 3.2) or ``l1`` (SiamMask's code).
        beta: distance from which smooth L1 is linear.
    """
    beta = 0.0 if kind == "l1" else beta
    distance = F.smooth_l1_loss(prediction, target, reduction="none", beta=beta).sum(dim=1)
    positive = (labels == 1).to(distance.dtype)
    weight = positive / (positive.sum(dim=(1, 2, 3), keepdim=True) + 1e-6)
    return (distance * weight).sum() / (counts.images if counts else len(labels))


def mask_loss(
    logits: Tensor,
    pixel_labels: Tensor,
    sample_labels: Tensor,
    negatives: str = "zero",
    counts: Counts | None = None,
) -> Tensor:
    """Return the logistic loss per pixel, weighted by (1 + y) / 2 (eq. 4).

    It is a mean over the counted windows and over their pixels, as in SiamMask: with the paper's
    sum over n the weight 32 would depend on the batch size. Pixels beyond the search crop have
    label 0: they add the constant log 2 and no gradient.

    Args:
        logits: (N, S, S). Smaller ones (63 px, from the base head) are resized to the labels.
        pixel_labels: (N, 127, 127) m of eq. 4: +1 object, -1 background, 0 beyond the crop.
        sample_labels: (N,) y of eq. 4: +1, -1, or 0 for a window that teaches nothing.
        negatives: ``zero`` (eq. 4) or ``background``: negative windows teach that they are empty.
    """
    logits = _resized_to(logits, pixel_labels)
    weight = (sample_labels > 0).to(logits.dtype)
    if negatives == "background":
        negative = (sample_labels < 0)[:, None, None]
        pixel_labels = torch.where(negative, -pixel_labels.abs(), pixel_labels)
        weight = (sample_labels != 0).to(logits.dtype)
    per_window = F.softplus(-pixel_labels * logits).mean(dim=(1, 2))
    return (per_window * weight).sum() / (counts.windows if counts else weight.sum().clamp(min=1))


def mask_windows(masks: Tensor, cells: Cells, margin: int) -> Tensor:
    """Cut the candidate windows of N cells, (N, 127, 127), out of search masks (B, S, S).

    Masks are +1 on the object and -1 on the background; windows are 0 beyond the crop. The first
    window reaches `margin` pixels beyond it.
    """
    return cut_windows(masks[:, None], cells, margin, 1, TEMPLATE_SIZE)[:, 0]


def mask_iou(logits: Tensor, pixel_labels: Tensor) -> Tensor:
    """Return the intersection over union (N,) of predicted and true masks; 1 if both are empty.

    Logits and labels are those of `mask_loss`. A pixel is of the object if its logit is above 0.
    Pixels beyond the search crop do not count.
    """
    logits = _resized_to(logits, pixel_labels)
    predicted, true = (logits > 0) & (pixel_labels != 0), pixel_labels > 0
    union = (predicted | true).sum(dim=(1, 2))
    overlap = (predicted & true).sum(dim=(1, 2))
    return torch.where(union > 0, overlap / union.clamp(min=1), 1.0)


def _resized_to(logits: Tensor, pixel_labels: Tensor) -> Tensor:
    size = pixel_labels.shape[-2:]
    if logits.shape[-1] == size[-1]:
        return logits
    return F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]


def compute_losses(
    model: nn.Module,
    batch: Batch,
    profile: Profile,
    stage: StageConfig,
    counts: Counts | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of eq. 3, and its parts before they are weighted.

    The parts are ``mask`` and, if the stage trains the location, ``cls`` and ``loc``. With them
    comes ``mask_iou``, the mean over the positive windows; NaN if there are none. The model is the
    network, or a wrapper that is called like it; `batch` is on its device.
    """
    config = profile.loss
    output = model(batch.template, batch.search, batch.cells, stage.mask)
    labels = batch.sample_labels
    pixel_labels = mask_windows(batch.mask.float(), batch.cells, MARGIN[stage.search_size])
    mask = mask_loss(output.mask_logits, pixel_labels, labels, config.negatives, counts)
    parts, total = {"mask": mask}, config.mask_weight * mask
    if stage.train_location:
        anchors = batch.anchor_labels
        cls = classification_loss(output.cls, anchors, counts)
        kind, beta = config.loc, config.loc_beta
        loc = regression_loss(output.loc, batch.offsets, anchors, kind, beta, counts)
        parts |= {"cls": cls, "loc": loc}
        total = total + config.cls_weight * cls + config.loc_weight * loc
    with torch.no_grad():
        positive = labels > 0
        iou = mask_iou(output.mask_logits[positive], pixel_labels[positive])
        parts["mask_iou"] = iou.sum() / (counts.masks if counts else len(iou))
    return total, parts
