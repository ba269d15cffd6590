"""Measure a network on single crops, without tracking: masks, boxes, and look-alikes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from torchvision.ops import box_convert, box_iou

from e3sn_lib.config import AugmentConfig, Profile, TrackConfig, TrainSetConfig
from e3sn_lib.data import augment
from e3sn_lib.data.augment import Image
from e3sn_lib.data.pairs import SMALLEST_SIDE, Pair, PairDataset, collate
from e3sn_lib.data.types import TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import TEMPLATE_SIZE, Box, anchors_cxcywh, context_side, decode_boxes
from e3sn_lib.losses import mask_iou, mask_windows
from e3sn_lib.model.network import E3SN, MARGIN
from e3sn_lib.tracking.tracker import ANCHORS, SEARCH_SIZE, choose
from e3sn_study.records.schema import CROPS

SCENE_SHIFT, SCENE_SCALE = 32.0, 0.1
"""How far (in crop pixels) and by what factor the target of a scene moves at most: as between two
frames of a fast video."""
LARGEST_OVERLAP = 0.3
"""IoU of two objects of a scene; of more, the best box could be meant for either."""


def crop_quality(
    model: E3SN,
    sources: Iterable[tuple[TrackSet, TrainSetConfig]],
    profile: Profile,
    pairs: int = 100,
) -> pd.DataFrame:
    """Measure masks and boxes on training pairs, without any tracking or negative pairs.

    Masks that are worse on unseen objects than on seen ones are over-fitted. Masks that are as
    bad on both are held back by few pairs, the data or the network. A predicted size that does not
    follow the true one explains a box that drifts.

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
        rows += [
            [source[0].name, number, *_quality(model, dataset[number])] for number in range(pairs)
        ]
    return pd.DataFrame(rows, columns=CROPS.columns)


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
    decoded = decode_boxes(loc[0].double().flatten(1).T[best].numpy(), anchors[best])
    box = box_convert(torch.from_numpy(decoded), "cxcywh", "xyxy")
    true = torch.from_numpy(pair.box_crop_xyxy).double()
    sizes = [float((each[2:] - each[:2]).prod().sqrt()) for each in (true, box)]
    return (
        float(mask_iou(logits[positive], labels[positive]).mean()),
        float(box_iou(true[None], box[None])),
        sizes[0],
        sizes[1],
    )


class _Scene(NamedTuple):
    """A template, a search crop that also shows look-alikes, and where all of them are."""

    template: Image
    search: Image
    target_crop_xyxy: Box
    alike_crop_xyxy: list[Box]
    size_wh: tuple[float, float]
    """Of the target in an unscaled search crop, as a tracker would know it."""


def changing_over(
    model: E3SN,
    tracks: TrackSet,
    config: TrackConfig,
    scenes: int = 300,
    seed: int = 0,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Measure how often the best anchor lies on another object of the target's category.

    Template and search crop come from one image, with other colours, place and scale. The target
    and another object of its category are in the search crop. The scenes depend on `tracks` and
    `seed` alone.

    Args:
        model: a trained network.
        tracks: objects whose frames know the look-alikes in their image (COCO).
        config: settings of inference, for the penalised score.
        scenes: looked at; fewer if there are no more.
        seed: of the scenes.
        batch_size: scenes computed together.

    Returns:
        One row per scene: track, others (look-alikes in the crop) and, for the anchor with the
        highest score (``raw``) and with the highest penalised and windowed score (``penalised``),
        the IoU of its box with the target (``raw_iou``), the largest with an other
        (``raw_other_iou``) and whether that is the larger one (``raw_over``).

    Raises:
        InputError: no track has a look-alike.
    """
    found: list[tuple[str, _Scene]] = []
    for number in np.random.default_rng(seed).permutation(len(tracks.tracks)).tolist():
        track = tracks.tracks[number]
        scene = (
            _scene(track.frames[0], np.random.default_rng([seed, number]))
            if track.frames[0].alike_frame_xyxy
            else None
        )
        if scene:
            found.append((track.name, scene))
        if len(found) == scenes:
            break
    if not found:
        raise InputError(
            f"{tracks.name}: no image shows two objects of one category close enough to each other"
        )
    rows = []
    for first in range(0, len(found), batch_size):
        part = found[first : first + batch_size]
        answers = _answers(model, [scene for _, scene in part], config)
        for (name, scene), answer in zip(part, answers, strict=True):
            rows.append({"track": name, "others": len(scene.alike_crop_xyxy), **answer})
    return pd.DataFrame(rows)


def _scene(frame: TrackFrame, rng: Generator) -> _Scene | None:
    """Return a scene, or None unless a look-alike has its middle in the crop.

    It has half to twice the target's size and hardly overlaps it.
    """
    box = frame.box_frame_xyxy
    assert box is not None
    width, height = box[2] - box[0], box[3] - box[1]
    crops = [
        augment.random_crop(box, size, shift, scale, rng, zoom=zoom)
        for size, shift, scale, zoom in (
            (TEMPLATE_SIZE, 0.0, 0.0, 0.0),
            (SEARCH_SIZE, SCENE_SHIFT, SCENE_SCALE, SCENE_SCALE),
        )
    ]
    target, *others = (crops[1].box_to_crop(each) for each in (box, *frame.alike_frame_xyxy))
    sizes = [float(np.sqrt((x2 - x1) * (y2 - y1))) for x1, y1, x2, y2 in (target, *others)]
    overlap = box_iou(torch.tensor([target]), torch.tensor(others))[0].tolist()
    alike = [
        other
        for other, size, iou in zip(others, sizes[1:], overlap, strict=True)
        if 0.5 <= size / sizes[0] <= 2 and iou < LARGEST_OVERLAP
        if all(0 < (other[axis] + other[axis + 2]) / 2 < SEARCH_SIZE for axis in (0, 1))
    ]
    if not alike or min(width, height) < SMALLEST_SIDE:
        return None
    image = frame.read()[0]
    fill = tuple(float(value) for value in image.reshape(-1, 3).mean(axis=0))
    template, search = (
        augment.change_colour(crop.image(image, fill), AugmentConfig(), rng) for crop in crops
    )
    scale = TEMPLATE_SIZE / context_side(width, height)
    return _Scene(template, search, target, alike, (width * scale, height * scale))


@torch.inference_mode()
def _answers(model: E3SN, scenes: list[_Scene], config: TrackConfig) -> list[dict[str, Any]]:
    """Return the columns of `changing_over` for each scene."""
    template, search = (
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(model.device)
        for images in ([scene.template for scene in scenes], [scene.search for scene in scenes])
    )
    cls, loc = (
        maps.cpu().numpy()
        for maps in model.locate(model.encode_template(template), model.encode_search(search))
    )
    sizes = np.array([scene.size_wh for scene in scenes])
    rows: list[dict[str, Any]] = [{} for _ in scenes]
    for score in ("raw", "penalised"):
        best = choose(cls, loc, sizes, replace(config, score=score)).best
        for number, (scene, row) in enumerate(zip(scenes, rows, strict=True)):
            anchor = ANCHORS[best[number]] + (SEARCH_SIZE / 2, SEARCH_SIZE / 2, 0, 0)
            box = torch.from_numpy(
                decode_boxes(loc[number].reshape(4, -1).T[best[number]].astype(np.float64), anchor)
            )
            truth = torch.tensor(
                [scene.target_crop_xyxy, *scene.alike_crop_xyxy], dtype=torch.float64
            )
            overlap = box_iou(box_convert(box, "cxcywh", "xyxy")[None], truth)[0]
            on_target, on_other = float(overlap[0]), float(overlap[1:].max())
            row |= {
                f"{score}_iou": on_target,
                f"{score}_other_iou": on_other,
                f"{score}_over": on_other > on_target,
            }
    return rows


def size_slope(rows: pd.DataFrame) -> float:
    """Return the slope of log predicted size over log true size: 1 follows it, 0 ignores it."""
    seen = rows.dropna()
    return float(np.polyfit(np.log(seen["size"]), np.log(seen["predicted_size"]), 1)[0])
