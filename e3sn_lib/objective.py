"""What a training step minimises: equation 3 for a batch of pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from e3sn_lib.config import Profile, StageConfig
from e3sn_lib.data.pairs import Batch
from e3sn_lib.losses import Counts, classification_loss, mask_iou, mask_loss, mask_windows, regression_loss
from e3sn_lib.model.network import MARGIN


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
