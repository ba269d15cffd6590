"""How good single crops are, apart from any tracking: on objects that training has seen and on those it has not.

Masks that are worse on unseen objects are over-fitted; masks that are equally bad on both are held back by something else: few
pairs, the data, or the network. A predicted size that does not follow the true one explains a box that drifts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torchvision.ops import box_convert, box_iou

from e3sn_lib.config import Profile, TrainSetConfig
from e3sn_lib.data.pairs import Pair, PairDataset, collate
from e3sn_lib.data.types import TrackSet
from e3sn_lib.geometry import anchors_cxcywh, decode_boxes
from e3sn_lib.losses import mask_iou, mask_windows
from e3sn_lib.model.network import E3SN, MARGIN

COLUMNS = ("set", "pair", "mask_iou", "box_iou", "size", "predicted_size")


def crop_quality(
    model: E3SN, sources: Iterable[tuple[TrackSet, TrainSetConfig]], profile: Profile, pairs: int = 100
) -> pd.DataFrame:
    """Masks and boxes of training pairs as augmentation draws them, each set by itself, without negative pairs.

    Args:
        model: a trained network.
        sources: opened track sets.
        profile: augmentation, sampling and seed; the pairs are others than those of the run's first steps.
        pairs: looked at in each set.

    Returns:
        One row per pair: set, pair, mask_iou (mean over its positive windows), box_iou (of the anchor with the highest score),
        size and predicted_size (square root of the box's area, in crop pixels); NaN for a pair without a positive window.
    """
    stage = replace(next(iter(profile.stages.values())), negative_pairs=0.0)
    rows = []
    for source in sources:
        dataset = PairDataset([source], profile, stage, pairs, first=profile.train.pairs)
        rows += [[source[0].name, number, *_quality(model, dataset[number])] for number in range(pairs)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@torch.inference_mode()
def _quality(model: E3SN, pair: Pair) -> tuple[float, float, float, float]:
    if not (pair.sample_labels == 1).any():
        return (np.nan,) * 4
    batch = collate([pair]).to(model.device)
    template, search = model.encode_template(batch.template), model.encode_search(batch.search)
    logits = model.segment(template, search, batch.cells)
    labels = mask_windows(batch.mask.float(), batch.cells, MARGIN[pair.search.shape[0]])
    positive = batch.sample_labels > 0
    cls, loc = (maps.cpu() for maps in model.locate(template, search))
    best = cls.softmax(dim=1)[0, 1].flatten().argmax()
    anchors = anchors_cxcywh(pair.search.shape[0] / 2, cls.shape[-1]).reshape(-1, 4)
    box = box_convert(decode_boxes(loc[0].double().flatten(1).T[best], anchors[best]), "cxcywh", "xyxy")
    true = torch.from_numpy(pair.box_crop_xyxy).double()
    sizes = [float((each[2:] - each[:2]).prod().sqrt()) for each in (true, box)]
    return float(mask_iou(logits[positive], labels[positive]).mean()), float(box_iou(true[None], box[None])), sizes[0], sizes[1]


def size_slope(rows: pd.DataFrame) -> float:
    """By how much the logarithm of the predicted size grows with that of the true one: 1 follows it, 0 ignores it."""
    seen = rows.dropna()
    return float(np.polyfit(np.log(seen["size"]), np.log(seen["predicted_size"]), 1)[0])
