"""Look into results and into the network: masks on frames, answers of each level, single crops."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from e3sn_lib.data.augment import random_crop
from e3sn_lib.data.pairs import Pair
from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import as_webp
from e3sn_lib.geometry import TEMPLATE_SIZE, Box, Image, box_from_mask, box_xywh
from e3sn_lib.metrics.measures import region_similarity
from e3sn_lib.model.network import E3SN, Search, Template
from e3sn_lib.model.windows import Cells
from e3sn_lib.tracking.tracker import SEARCH_SIZE
from e3sn_lib.tracking.video import overlay
from e3sn_study.evaluation.benchmark import read_masks
from e3sn_study.records.schema import MODEL

SLIDER_WIDTH = 400
"""Pixels of a picture of the slider."""


def spread_by_score(scores: pd.DataFrame, count: int) -> list[str]:
    """Return names of sequences from best to worst J, evenly spaced in rank."""
    means = scores[scores["method"] == MODEL].groupby("sequence")["J-Mean"].mean()
    ranked = means.sort_values(ascending=False).index
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked)))
    return [str(ranked[round(place)]) for place in places]


def slider_frames(
    videos: Iterable[Video], masks: Path, boxes: Path, count: int = 16
) -> list[dict[str, Any]]:
    """Return frames of some videos for the slider of the report page.

    All objects of a video are shown as one, in `count` frames that are evenly spaced. `masks` and
    `boxes` are folders of a network's masks and filled boxes, see `read_masks`.

    Return for each video its name, its size (width, height) and its frames: number, j (percent;
    None for the first frame, which was given), image (WebP, base64), box (x, y, width, height),
    mask and truth (outlines as paths of SVG). Boxes and outlines are in pixels of the frame.
    """
    shown = []
    for video in videos:
        chosen = np.linspace(0, len(video) - 1, min(count, len(video))).round().astype(int).tolist()
        frames = []
        written = (read_masks(folder, video, chosen) for folder in (masks, boxes))
        for index, mask, filled in zip(chosen, *written, strict=True):
            truth, box = video.mask(index) > 0, box_from_mask(filled > 0)
            image, _ = as_webp(video.frame_paths[index], SLIDER_WIDTH, quality=45)
            frames.append(
                {
                    "number": index,
                    "j": round(100 * region_similarity(mask > 0, truth), 1) if index else None,
                    "image": base64.b64encode(image).decode(),
                    "box": box_xywh(box) if box else (0, 0, 0, 0),
                    "mask": _outline(mask > 0),
                    "truth": _outline(truth),
                }
            )
        shown.append({"name": video.name, "size": truth.shape[::-1], "frames": frames})
    return shown


def _outline(mask: NDArray[np.bool_]) -> str:
    """Return the edge of a mask (H, W) as a path of SVG, to within a pixel."""
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    lines = [cv2.approxPolyDP(edge, 1, closed=True).ravel().tolist() for edge in edges]
    return "".join(f"M{' '.join(map(str, line))}Z" for line in lines if len(line) > 4)


def overlaid(video: Video, folders: Mapping[str, Path]) -> Iterator[Image]:
    """Yield frames with the masks of several methods side by side, each named in its corner.

    The folders of the masks, see `read_masks`, have the names of the methods as keys.
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
    """By level, (n, n): distance of the answer at each position from the level's mean answer, in
    standard deviations of each channel."""


@torch.inference_mode()
def level_answers(model: E3SN, video: Video, index: int) -> Answers:
    """Correlate object 1 of the first frame with a later frame, level by level.

    The search crop lies where the object was one frame before. Raises InputError if the object is
    absent from one of the three frames.
    """
    first, before, now = (_box(video, number) for number in (0, index - 1, index))
    frame = video.frame(0)
    fill = frame.mean(axis=(0, 1)).tolist()
    rng = np.random.default_rng(0)  # nothing is random without shift and scale
    crop = random_crop(before, SEARCH_SIZE, 0.0, 0.0, rng)
    image = crop.image(video.frame(index), fill)
    target = random_crop(first, TEMPLATE_SIZE, 0.0, 0.0, rng).image(frame, fill)
    template, search = encode_crops(model, target, image)
    levels = model.mask.whole_maps(template, search)
    finest = [max(level.shape[-1] for level in levels)] * 2
    fused = model.mask.fusion(
        [F.interpolate(level, finest, mode="bilinear", align_corners=True) for level in levels]
    )
    names = [f"conv{name}" for name in model.mask.names]
    maps = dict(zip([*names, "fused"], map(_distance, [*levels, fused]), strict=True))
    return Answers(image, crop.box_to_crop(now), maps)


def _box(video: Video, index: int) -> Box:
    if box := box_from_mask(video.mask(index) == 1):
        return box
    absent = f"object 1 is not in frame {index}"
    raise InputError(f"sequence {video.name}: {absent}; choose another frame")


def encode_crops(model: E3SN, template: Image, search: Image) -> tuple[Template, Search]:
    """Return the features of a template crop and of a search crop, (S, S, 3)."""
    crops = (torch.from_numpy(each).permute(2, 0, 1)[None] for each in (template, search))
    template_batch, search_batch = (each.to(model.device) for each in crops)
    return model.encode_template(template_batch), model.encode_search(search_batch)


def _distance(level: Tensor) -> NDArray[np.float32]:
    """Return the length over channels (1, C, n, n) -> (n, n), each channel standardised first."""
    mean, deviation = level.mean(dim=(2, 3), keepdim=True), level.std(dim=(2, 3), keepdim=True)
    return ((level - mean) / (deviation + 1e-6)).square().mean(dim=1).sqrt()[0].cpu().numpy()


@torch.inference_mode()
def predict_windows(model: E3SN, pair: Pair) -> NDArray[np.bool_]:
    """Return a network's masks (K, 127, 127) of the windows drawn from a training pair."""
    rows, columns = torch.from_numpy(pair.cells).to(model.device).unbind(dim=1)
    cells = Cells(torch.zeros_like(rows), rows, columns)
    template, search = encode_crops(model, pair.template, pair.search)
    return (model.segment(template, search, cells) > 0).cpu().numpy()
