"""Measure a network on single crops, without tracking: masks, boxes, and look-alikes."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_area, box_convert, box_iou

from e3sn_lib import geometry
from e3sn_lib.config import AugmentConfig, Profile, TrackConfig
from e3sn_lib.data import augment
from e3sn_lib.data.pairs import SMALLEST_SIDE, Pair, PairDataset, Source, collate
from e3sn_lib.data.types import TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import TEMPLATE_SIZE, anchors_cxcywh, box_xywh, context_side, decode_boxes
from e3sn_lib.losses import mask_iou, mask_windows
from e3sn_lib.model.network import E3SN, MARGIN
from e3sn_lib.tracking.tracker import SEARCH_SIZE, choose
from e3sn_study.evaluation.inspection import encode_crops
from e3sn_study.records.schema import SCHEMAS

SCENE_SHIFT, SCENE_SCALE = 32.0, 0.1
"""How far (in crop pixels) and by what factor the target of a scene moves at most: as between two
frames of a fast video."""
LARGEST_OVERLAP = 0.3
"""IoU of two objects of a scene; of more, the best box could be meant for either."""


def crop_quality(
    model: E3SN, sources: Iterable[Source], profile: Profile, pairs: int = 100
) -> pd.DataFrame:
    """Measure masks and boxes on training pairs, without any tracking or negative pairs.

    Masks that are worse on unseen objects than on seen ones are over-fitted. Masks that are as
    bad on both are held back by few pairs, the data or the network. A predicted size that does not
    follow the true one explains a box that drifts.

    Each set of `sources` is measured by itself, with `pairs` pairs. They are not those of the first
    steps of training.

    Return one row per pair: set, pair, box_iou (of the anchor with the highest score), size and
    predicted_size (square root of the box's area, in crop pixels), mask_iou (mean over its
    positive windows; NaN without any).
    """
    stage = replace(next(iter(profile.stages.values())), negative_pairs=0.0)
    rows = []
    for source in sources:
        dataset = PairDataset([source], profile, stage, first=profile.train.pairs)
        rows += [
            [source[0].name, number, *_quality(model, dataset[number])] for number in range(pairs)
        ]
    return pd.DataFrame(rows, columns=SCHEMAS["crops"].columns)


@torch.inference_mode()
def _quality(model: E3SN, pair: Pair) -> tuple[float, float, float, float]:
    """Return box_iou, size, predicted_size and mask_iou."""
    batch = collate([pair]).to(model.device)
    template, search = model.encode_template(batch.template), model.encode_search(batch.search)
    logits = model.segment(template, search, batch.cells)
    labels = mask_windows(batch.mask.float(), batch.cells, MARGIN[pair.search.shape[0]])
    positive = batch.sample_labels > 0
    cls, loc = (maps.cpu() for maps in model.locate(template, search))
    best = cls.softmax(dim=1)[0, 1].flatten().argmax()
    box = _box(loc.numpy(), best, pair.search.shape[0])
    true = torch.from_numpy(pair.box_crop_xyxy).double()[None]
    return (
        float(box_iou(true, box)),
        float(box_area(true).sqrt()),
        float(box_area(box).sqrt()),
        float(mask_iou(logits[positive], labels[positive]).mean()),
    )


def _box(loc: NDArray[np.float32], best: Any, search_size: int) -> Tensor:
    """Return the box of the anchor `best` in crop pixels: (1, 4) x1, y1, x2, y2."""
    anchors = anchors_cxcywh(search_size / 2, loc.shape[-1]).reshape(-1, 4)
    decoded = decode_boxes(loc.reshape(4, -1).T[best].astype(np.float64), anchors[best])
    return box_convert(torch.from_numpy(decoded), "cxcywh", "xyxy")[None]


class _Scene(NamedTuple):
    """A template, and a search crop that also shows look-alikes."""

    template: geometry.Image
    search: geometry.Image
    boxes_crop_xyxy: Tensor
    """(N, 4), the target's first."""
    size_wh: NDArray[np.float64]
    """(1, 2) of the target in an unscaled search crop, as a tracker would know it."""


def look_alikes_taken(
    model: E3SN, tracks: TrackSet, config: TrackConfig, scenes: int = 300
) -> pd.DataFrame:
    """Measure how often the best anchor lies on another object of the target's category.

    Template and search crop come from one image, with other colours, place and scale. The target
    and another object of its category are in the search crop. The scenes depend on `tracks` alone,
    whose frames have to know the look-alikes in their image (COCO). There are `scenes`, or fewer.

    Return one row per scene: track, others (look-alikes in the crop), and whether the box with the
    highest score (``raw_over``), or with the highest penalised and windowed score
    (``penalised_over``), overlaps one of them more than the target. Raises InputError if no track
    has a look-alike.
    """
    rows: list[dict[str, Any]] = []
    for number in np.random.default_rng(0).permutation(len(tracks.tracks)).tolist():
        if len(rows) == scenes:
            break
        track = tracks.tracks[number]
        if scene := _scene(track.frames[0], np.random.default_rng([0, number])):
            others = len(scene.boxes_crop_xyxy) - 1
            rows.append({"track": track.name, "others": others, **_answer(model, scene, config)})
    if not rows:
        reason = "no image shows two objects of one category close enough to each other"
        raise InputError(f"{tracks.name}: {reason}")
    return pd.DataFrame(rows)


def _scene(frame: TrackFrame, rng: Generator) -> _Scene | None:
    """Return a scene; None if no look-alike fits.

    A look-alike fits if its middle is in the crop, its size is half to twice the target's, and it
    hardly overlaps the target.
    """
    box, alike = frame.box_frame_xyxy, frame.alike_frame_xyxy
    if box is None or not alike or min(box_xywh(box)[2:]) < SMALLEST_SIDE:
        return None
    crops = (
        augment.random_crop(box, TEMPLATE_SIZE, 0.0, 0.0, rng),
        augment.random_crop(box, SEARCH_SIZE, SCENE_SHIFT, SCENE_SCALE, rng, zoom=SCENE_SCALE),
    )
    in_crop = [crops[1].box_to_crop(each) for each in (box, *alike)]
    boxes = torch.tensor(in_crop, dtype=torch.float64)
    sizes, middles = box_area(boxes).sqrt(), (boxes[:, :2] + boxes[:, 2:]) / 2
    seen = ((middles > 0) & (middles < SEARCH_SIZE)).all(dim=1)
    seen &= (sizes / sizes[0] >= 0.5) & (sizes / sizes[0] <= 2)
    seen &= box_iou(boxes, boxes[:1])[:, 0] < LARGEST_OVERLAP  # the target itself has 1
    if not seen.any():
        return None
    image = frame.read()[0]
    fill = image.mean(axis=(0, 1)).tolist()
    template, search = (
        augment.change_colour(crop.image(image, fill), AugmentConfig().colour, rng)
        for crop in crops
    )
    size_wh = np.array([box_xywh(box)[2:]])
    scale = TEMPLATE_SIZE / context_side(size_wh[0])
    return _Scene(template, search, torch.cat([boxes[:1], boxes[seen]]), size_wh * scale)


@torch.inference_mode()
def _answer(model: E3SN, scene: _Scene, config: TrackConfig) -> dict[str, Any]:
    """Return the columns of `look_alikes_taken` that a network decides."""
    template, search = encode_crops(model, scene.template, scene.search)
    cls, loc = (maps.cpu().numpy() for maps in model.locate(template, search))
    row: dict[str, Any] = {}
    for score in ("raw", "penalised"):
        best = choose(cls, loc, scene.size_wh, replace(config, score=score)).best[0]
        overlap = box_iou(_box(loc, best, SEARCH_SIZE), scene.boxes_crop_xyxy)[0].tolist()
        row[f"{score}_over"] = max(overlap[1:]) > overlap[0]
    return row
