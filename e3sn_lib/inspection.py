"""Look into results and into the network: masks on frames, answers of each level, single crops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from e3sn_lib.boxes import TEMPLATE_SIZE, anchors_cxcywh, decode_boxes
from e3sn_lib.config import Profile, TrainSetConfig
from e3sn_lib.crops import Crop, context_side
from e3sn_lib.data.pairs import Pair, PairDataset, collate
from e3sn_lib.data.types import Box, Sequence, TrackSet, box_from_mask
from e3sn_lib.errors import InputError
from e3sn_lib.evaluation import read_masks
from e3sn_lib.losses import mask_iou, mask_windows
from e3sn_lib.methods import MODEL
from e3sn_lib.model.network import E3SN, MARGIN
from e3sn_lib.model.windows import Cells
from e3sn_lib.store import CROPS
from e3sn_lib.tracking import SEARCH_SIZE
from e3sn_lib.video import Image, overlay


def spread_by_score(scores: pd.DataFrame, count: int, method: str = MODEL) -> list[str]:
    """Return names of sequences from best to worst J, evenly spaced in rank; for one, the worst."""
    means = scores[scores["method"] == method].groupby("sequence")["J-Mean"].mean()
    ranked = means.sort_values(ascending=False).index
    last = len(ranked) - 1
    places = np.linspace(0, last, min(count, len(ranked))) if count > 1 else [last]
    return [str(ranked[round(place)]) for place in places]


def overlaid(video: Sequence, folders: Mapping[str, Path]) -> Iterator[Image]:
    """Yield frames with the masks of several methods side by side, each named in its corner.

    Args:
        video: whose frames are shown.
        folders: of the masks, see `read_masks`, by the method's name.
    """
    for index in range(len(video)):
        frame, views = video.frame(index), []
        scale = frame.shape[1] / 900
        place = (round(14 * scale), round(36 * scale))
        for name, folder in folders.items():
            view = overlay(frame, next(read_masks(folder, video, [index])))
            for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
                font = cv2.FONT_HERSHEY_SIMPLEX
                cv2.putText(view, name, place, font, scale, colour, width, cv2.LINE_AA)
            views.append(view)
        yield np.hstack(views)


class Answers(NamedTuple):
    """What each level's correlation says about one search crop."""

    search: Image
    """(255, 255, 3)."""
    box_crop_xyxy: Box
    """The true target."""
    maps: dict[str, NDArray[np.float32]]
    """By level, (n, n): how far the answer at each position is from the level's mean answer."""


@torch.inference_mode()
def level_answers(model: E3SN, video: Sequence, index: int, object_id: int = 1) -> Answers:
    """Correlate the first frame's object with a later frame, level by level.

    The search crop lies where the object was one frame before.

    Raises:
        InputError: the object is absent from one of the three frames.
    """
    first, before, now = (_box(video, number, object_id) for number in (0, index - 1, index))
    frame = video.frame(0)
    fill = tuple(float(value) for value in frame.reshape(-1, 3).mean(axis=0))
    crop = _context_crop(before, SEARCH_SIZE)
    image = crop.image(video.frame(index), fill)
    target = _context_crop(first, TEMPLATE_SIZE).image(frame, fill)
    template, search = model.encode_template(_tensor(target, model)), _tensor(image, model)
    levels = model.mask.whole_maps(template, model.encode_search(search))
    finest = [max(level.shape[-1] for level in levels)] * 2
    fused = model.mask.fusion(
        [F.interpolate(level, finest, mode="bilinear", align_corners=True) for level in levels]
    )
    names = [f"conv{name}" for name in model.mask.names]
    maps = dict(zip([*names, "fused"], map(_distance, [*levels, fused]), strict=True))
    return Answers(image, crop.box_to_crop(now), maps)


def _box(video: Sequence, index: int, object_id: int) -> Box:
    box = box_from_mask(video.mask(index) == object_id)
    if box is None:
        absent = f"object {object_id} is not in frame {index}"
        raise InputError(f"sequence {video.name}: {absent}; choose another frame")
    return box


def _context_crop(box_frame_xyxy: Box, size: int) -> Crop:
    """Return the square around a box at the template's scale, `size` pixels wide."""
    x1, y1, x2, y2 = box_frame_xyxy
    side = context_side(x2 - x1, y2 - y1) * size / TEMPLATE_SIZE
    return Crop.square(((x1 + x2) / 2, (y1 + y2) / 2), side, size)


def _tensor(image: Image, model: E3SN) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(model.device)


def _distance(level: Tensor) -> NDArray[np.float32]:
    """Return the length over channels (1, C, n, n) -> (n, n), each channel standardised first."""
    mean, deviation = level.mean(dim=(2, 3), keepdim=True), level.std(dim=(2, 3), keepdim=True)
    return ((level - mean) / (deviation + 1e-6)).square().mean(dim=1).sqrt()[0].cpu().numpy()


@torch.inference_mode()
def predict_windows(model: E3SN, pair: Pair) -> NDArray[np.bool_]:
    """Return a network's masks (K, 127, 127) of the windows drawn from a training pair."""
    rows, columns = torch.from_numpy(pair.cells).unbind(dim=1)
    cells = Cells(torch.zeros_like(rows), rows, columns)
    template = model.encode_template(_tensor(pair.template, model))
    search = model.encode_search(_tensor(pair.search, model))
    return (model.segment(template, search, cells) > 0).cpu().numpy()


def crop_quality(
    model: E3SN,
    sources: Iterable[tuple[TrackSet, TrainSetConfig]],
    profile: Profile,
    pairs: int = 100,
) -> pd.DataFrame:
    """Measure masks and boxes on training pairs, without any tracking and negative pairs.

    Masks that are worse on unseen objects than on seen ones are over-fitted. Masks that are as
    bad on both are held back by few pairs, the data or the network.

    Args:
        model: a trained network.
        sources: opened track sets, each measured by itself.
        profile: augmentation, sampling and seed. The pairs are not those of the first steps.
        pairs: of each set.

    Returns:
        One row per pair: set, pair, mask_iou (mean over its positive windows), box_iou (of the
        anchor with the highest score), size and predicted_size (square root of the box's area, in
        crop pixels). NaN for a pair without a positive window.
    """
    stage = replace(next(iter(profile.stages.values())), negative_pairs=0.0)
    rows = []
    for source in sources:
        dataset = PairDataset([source], profile, stage, pairs, first=profile.train.pairs)
        for number in range(pairs):
            rows.append((source[0].name, number, *_quality(model, dataset[number])))
    return pd.DataFrame(rows, columns=[*CROPS.texts, *CROPS.numbers, *CROPS.gaps])


@torch.inference_mode()
def _quality(model: E3SN, pair: Pair) -> tuple[float, float, float, float]:
    """Return mask_iou, box_iou, size and predicted_size, see `crop_quality`."""
    if not (pair.sample_labels == 1).any():
        return (np.nan,) * 4
    batch = collate([pair]).to(model.device)
    template, search = model.encode_template(batch.template), model.encode_search(batch.search)
    logits = model.segment(template, search, batch.cells)
    labels = mask_windows(batch.mask.float(), batch.cells, MARGIN[pair.search.shape[0]])
    positive = batch.sample_labels > 0
    overlap = float(mask_iou(logits[positive], labels[positive]).mean())
    cls, loc = (maps.cpu() for maps in model.locate(template, search))
    best = cls.softmax(dim=1)[0, 1].flatten().argmax()
    anchor = anchors_cxcywh(pair.search.shape[0] / 2, cls.shape[-1]).reshape(-1, 4)[best]
    box = decode_boxes(loc[0].double().flatten(1).T[best], anchor)
    true = torch.from_numpy(pair.box_crop_xyxy).double()
    boxes = torch.stack([true, box_convert(box, "cxcywh", "xyxy")])
    size, predicted = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt().tolist()
    return overlap, float(box_iou(boxes[:1], boxes[1:])), size, predicted


def size_slope(rows: pd.DataFrame) -> float:
    """Return the slope of log predicted size over log true size: 1 follows it, 0 ignores it."""
    seen = rows.dropna()
    return float(np.polyfit(np.log(seen["size"]), np.log(seen["predicted_size"]), 1)[0])
