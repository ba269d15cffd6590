"""Looking into results and into the network: frames with masks, sequences chosen by rule, answers of each level."""

from __future__ import annotations

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

from e3sn_lib.data.pairs import Pair
from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import as_webp, read_mask
from e3sn_lib.geometry import TEMPLATE_SIZE, Box, Crop, box_from_mask, box_xywh, context_side
from e3sn_lib.metrics.measures import region_similarity
from e3sn_lib.metrics.scoring import score_sequence
from e3sn_lib.model.network import E3SN
from e3sn_lib.model.windows import Cells
from e3sn_lib.tracking.tracker import SEARCH_SIZE
from e3sn_lib.tracking.video import Image, overlay


class Answers(NamedTuple):
    """What each level's correlation says about one search crop."""

    search: Image
    """(255, 255, 3)."""
    box_crop_xyxy: Box
    """The true target."""
    maps: dict[str, NDArray[np.float32]]
    """By level, (n, n): how far the answer at each position is from the level's mean answer."""


@torch.inference_mode()
def level_answers(model: E3SN, video: Video, index: int, object_id: int = 1) -> Answers:
    """Correlate the first frame's object with a later frame, level by level, searching where the object was one frame before.

    Raises:
        InputError: the object is absent from one of the three frames.
    """
    boxes = [_box(video, number, object_id) for number in (0, index - 1, index)]
    fill = tuple(float(value) for value in video.frame(0).reshape(-1, 3).mean(axis=0))
    crop = _context_crop(boxes[1], SEARCH_SIZE)
    image = crop.image(video.frame(index), fill)
    template = model.encode_template(_tensor(_context_crop(boxes[0], TEMPLATE_SIZE).image(video.frame(0), fill), model))
    levels = model.mask.whole_maps(template, model.encode_search(_tensor(image, model)))
    finest = max(level.shape[-1] for level in levels)
    fused = model.mask.fusion([F.interpolate(level, (finest, finest), mode="bilinear", align_corners=True) for level in levels])
    maps = {f"conv{name}": _distance(level) for name, level in zip(model.mask.names, levels, strict=True)}
    return Answers(image, crop.box_to_crop(boxes[2]), maps | {"fused": _distance(fused)})


def _box(video: Video, index: int, object_id: int) -> Box:
    box = box_from_mask(video.mask(index) == object_id)
    if box is None:
        raise InputError(f"sequence {video.name}: object {object_id} is not in frame {index}; choose another frame")
    return box


def _context_crop(box_frame_xyxy: Box, size: int) -> Crop:
    """The square around a box at the template's scale, `size` pixels wide."""
    x1, y1, x2, y2 = box_frame_xyxy
    return Crop.square(((x1 + x2) / 2, (y1 + y2) / 2), context_side(x2 - x1, y2 - y1) * size / TEMPLATE_SIZE, size)


def _tensor(image: Image, model: E3SN) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(model.device)


def _distance(level: Tensor) -> NDArray[np.float32]:
    """(1, C, n, n) to (n, n): each channel against its own mean and deviation over positions, then the length over channels."""
    standard = (level - level.mean(dim=(2, 3), keepdim=True)) / (level.std(dim=(2, 3), keepdim=True) + 1e-6)
    return standard.square().mean(dim=1).sqrt()[0].cpu().numpy()


@torch.inference_mode()
def predict_windows(model: E3SN, pair: Pair) -> NDArray[np.bool_]:
    """The masks (K, 127, 127) that a network gives for the windows drawn from a training pair."""
    rows, columns = torch.from_numpy(pair.cells).unbind(dim=1)
    cells = Cells(torch.zeros_like(rows), rows, columns)
    template, search = model.encode_template(_tensor(pair.template, model)), model.encode_search(_tensor(pair.search, model))
    return (model.segment(template, search, cells) > 0).cpu().numpy()


def read_masks(folder: Path, video: Video, frames: Iterable[int] | None = None) -> Iterator[Image]:
    """The masks (H, W) of ids that an evaluation wrote for some or all frames of a video."""
    chosen = range(len(video)) if frames is None else frames
    return (read_mask(folder / video.name / f"{video.frame_paths[index].stem}.png") for index in chosen)


def frame_scores(folder: Path, video: Video) -> pd.DataFrame:
    """J and F of every scored frame of a video."""
    return score_sequence(read_masks(folder, video), video)


def spread_by_score(scores: pd.DataFrame, count: int, method: str = "mask") -> list[str]:
    """Names of sequences from the best to the worst by J, evenly spaced in rank; with `count` 1 the worst."""
    ranked = scores[scores["method"] == method].groupby("sequence")["J-Mean"].mean().sort_values(ascending=False).index
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))) if count > 1 else [len(ranked) - 1]
    return [str(ranked[round(place)]) for place in places]


def slider_frames(
    videos: Iterable[Video], masks: Path, boxes: Path, count: int = 16, width: int = 400
) -> list[dict[str, Any]]:
    """Return frames of some videos for the slider of the report page.

    Args:
        videos: with all their objects shown as one.
        masks: folder of the masks that a network gave, see `read_masks`.
        boxes: folder of its filled boxes.
        count: frames of each video, evenly spaced.
        width: of the pictures, in pixels.

    Returns:
        For each video its name, its size (width, height) and its frames: number, j (percent; None
        for the first frame, which was given), image (WebP, base64), box (x, y, width, height),
        mask and truth (outlines as paths of SVG). Boxes and outlines are in pixels of the frame.
    """
    shown = []
    for video in videos:
        chosen = np.linspace(0, len(video) - 1, min(count, len(video))).round().astype(int).tolist()
        frames = []
        given = zip(chosen, read_masks(masks, video, chosen), read_masks(boxes, video, chosen), strict=True)
        for index, mask, filled in given:
            truth, box = video.mask(index) > 0, box_from_mask(filled > 0)
            image, _ = as_webp(video.frame_paths[index], width, quality=45)
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
    """Frames of a video with the masks of one or several methods, side by side, each named in its corner."""
    for index in range(len(video)):
        frame, views = video.frame(index), []
        for name, folder in folders.items():
            view = overlay(frame, next(read_masks(folder, video, [index])))
            for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
                scale = frame.shape[1] / 900
                place = (round(14 * scale), round(36 * scale))
                cv2.putText(view, name, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, width, cv2.LINE_AA)
            views.append(view)
        yield np.hstack(views)
