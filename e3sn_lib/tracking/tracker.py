"""Following objects through a video: locate, segment, paste back (paper 4.1 "Inference"; SiamMask's tracker).

The network knows nothing of objects. Their state is a `Targets` value that goes into each step and comes out changed, so that
several videos can share one tracker and all objects of a frame go through the network as one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e3sn_lib.config import TrackConfig
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import (
    CELLS,
    CROPS,
    STRIDE,
    TEMPLATE_SIZE,
    Box,
    ContextCrop,
    anchors_cxcywh,
    context_sides,
    decode_boxes,
    paste_mask,
)
from e3sn_lib.model.device import autocast, precision_of
from e3sn_lib.model.network import E3SN, MARGIN, Search, Template
from e3sn_lib.model.windows import Cells

SEARCH_SIZE = 255
SMALLEST_SIZE = 10.0
"""Width and height of a tracked box never fall below this many pixels (SiamMask)."""
ANCHORS = anchors_cxcywh(centre=0.0).reshape(-1, 4)
"""(3125, 4) relative to the middle of a search crop."""
WINDOW = np.tile(np.outer(np.hanning(CELLS), np.hanning(CELLS)).ravel(), len(ANCHORS) // CELLS**2)
"""(3125,) how much an anchor is favoured for being near the middle."""


@dataclass(frozen=True)
class Targets:
    """State of N objects between two frames."""

    template: Template
    centre_frame_xy: NDArray[np.float64]
    """(N, 2)."""
    size_wh: NDArray[np.float64]
    """(N, 2) in frame pixels."""
    fill: tuple[float, ...]
    """Mean colour of the first frame, which pads crops of the whole video (SiamMask)."""

    def boxes_frame_xyxy(self) -> NDArray[np.float64]:
        """(N, 4)."""
        return np.hstack([self.centre_frame_xy - self.size_wh / 2, self.centre_frame_xy + self.size_wh / 2])

    def select(self, objects: Sequence[int]) -> Targets:
        """Only these objects."""
        index = list(objects)
        kept = Template(self.template.cls[index], self.template.loc[index], tuple(level[index] for level in self.template.levels))
        return replace(self, template=kept, centre_frame_xy=self.centre_frame_xy[index], size_wh=self.size_wh[index])

    def moved_to(self, boxes_frame_xyxy: Sequence[Box]) -> Targets:
        """The same objects at other places."""
        boxes = np.array(boxes_frame_xyxy, np.float64)
        return replace(self, centre_frame_xy=(boxes[:, :2] + boxes[:, 2:]) / 2, size_wh=boxes[:, 2:] - boxes[:, :2])


@dataclass(frozen=True)
class FrameResult:
    """What one step says about one frame."""

    ids: NDArray[np.uint8]
    """(H, W): 0 background, k for the k-th box given at the start."""
    soft_masks: NDArray[np.float32]
    """(N, H, W) object probabilities; outside the chosen window 0, or -1 with ``track.crop=siammask``."""
    scores: NDArray[np.float64]
    """(N,) classification score of the chosen position, 0 to 1: how sure the tracker is that the object is there."""
    boxes_frame_xyxy: NDArray[np.float64]
    """(N, 4)."""


class Tracker:
    """Masks of objects in a video from their boxes in its first frame.

    Args:
        model: a network; it is put into evaluation mode.
        config: hyper-parameters of inference.
        device: where to compute; None: where the model is.
        precision: of the network, see `precision_of`; with less than ``fp32`` masks differ in some pixels.
    """

    def __init__(
        self,
        model: E3SN,
        config: TrackConfig | None = None,
        device: torch.device | str | None = None,
        precision: str = "fp32",
    ) -> None:
        self.config = config or TrackConfig()
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.model = model.to(self.device).eval()
        self.model.backbone.skip_zero_taps()
        self.dtype = precision_of(precision, self.device)

    def run(self, frames: Iterable[NDArray[np.uint8]], boxes_frame_xywh: Sequence[Sequence[float]]) -> Iterator[FrameResult]:
        """Follow objects through a video.

        Args:
            frames: (H, W, 3) RGB uint8, all of one size; read one at a time.
            boxes_frame_xywh: x, y, width and height of each object in the first frame.

        Yields:
            One result per frame; that of the first frame has the given boxes.

        Raises:
            InputError: no frame, frames of different sizes, a box outside the frame or without area.
        """
        targets: Targets | None = None
        for index, frame in enumerate(frames):
            if targets is None:
                shape = frame.shape
                targets = self.start(frame, boxes_frame_xywh)
                _, result = self.step(frame, targets, move=False)
            else:
                if frame.shape != shape:
                    raise InputError(f"frame {index} is {frame.shape[1]}x{frame.shape[0]}, the first one {shape[1]}x{shape[0]}")
                targets, result = self.step(frame, targets)
            yield result
        if targets is None:
            raise InputError("the video has no frames")

    def start(self, frame: NDArray[np.uint8], boxes_frame_xywh: Sequence[Sequence[float]]) -> Targets:
        """State of the objects in the first frame; raises InputError for a box that cannot be used."""
        boxes = np.array([_check_box(box, frame.shape[:2], number) for number, box in enumerate(boxes_frame_xywh, start=1)])
        if len(boxes) == 0:
            raise InputError("no box is given, so there is nothing to follow")
        fill = tuple(float(value) for value in frame.reshape(-1, 3).mean(axis=0))
        centre, size = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]
        crops = [crop.image(frame, fill) for crop in self._crops(centre, size, TEMPLATE_SIZE)]
        with torch.inference_mode(), autocast(self.dtype, self.device):
            template = self.model.encode_template(self._tensor(crops))
        return Targets(template, centre, size, fill)

    @torch.inference_mode()
    def step(self, frame: NDArray[np.uint8], targets: Targets, move: bool = True) -> tuple[Targets, FrameResult]:
        """Find and segment the objects in the next frame.

        Args:
            frame: (H, W, 3) RGB uint8.
            targets: state after the previous frame.
            move: False segments at the known position, for a frame whose boxes are given.
        """
        crops = self._crops(targets.centre_frame_xy, targets.size_wh, SEARCH_SIZE)
        cells, scores = np.full((len(crops), 2), CELLS // 2), np.ones(len(crops))
        with autocast(self.dtype, self.device):
            search = self.model.encode_search(self._tensor([crop.image(frame, targets.fill) for crop in crops]))
            found = self.model.locate(targets.template, search) if move else None
        if found:
            choice = choose(*found, targets.size_wh, self.config)
            cells, scores, targets = choice.cells, choice.scores, _moved(targets, choice, frame.shape[:2])
        soft = self._segment(search, targets.template, cells, crops, frame.shape[:2])
        ids = labels_from_soft_masks(soft, self.config.mask_threshold)
        return targets, FrameResult(ids, soft, scores, targets.boxes_frame_xyxy())

    def _segment(
        self, search: Search, template: Template, cells: NDArray[np.int64], crops: list[ContextCrop], frame_hw: tuple[int, int]
    ) -> NDArray[np.float32]:
        rows, columns = (torch.from_numpy(part.copy()).to(self.device) for part in cells.T)
        chosen = Cells(torch.arange(len(cells), device=self.device), rows, columns)
        with autocast(self.dtype, self.device):
            soft = self.model.segment(template, search, chosen).sigmoid().cpu().numpy()
        margin = MARGIN[SEARCH_SIZE]
        corners = [(float(column * STRIDE - margin), float(row * STRIDE - margin)) for row, column in cells]
        return np.stack([paste_mask(m, corner, crop, frame_hw) for m, corner, crop in zip(soft, corners, crops, strict=True)])

    def _crops(self, centre_frame_xy: NDArray[np.float64], size_wh: NDArray[np.float64], pixels: int) -> list[ContextCrop]:
        cut = CROPS[self.config.crop]
        sides = context_sides(size_wh) * pixels / TEMPLATE_SIZE
        return [cut((x, y), side, pixels) for (x, y), side in zip(centre_frame_xy.tolist(), sides.tolist(), strict=True)]

    def _tensor(self, crops: list[NDArray[np.uint8]]) -> Tensor:
        return torch.from_numpy(np.stack(crops)).to(self.device).permute(0, 3, 1, 2)


class Choice(NamedTuple):
    """The best anchor of each of N objects in its search crop."""

    ranked: NDArray[np.float64]
    """(N, 3125) what was maximised: the score, penalised and windowed or not."""
    best: NDArray[np.int64]
    """(N,) flat anchor index."""
    scores: NDArray[np.float64]
    """(N,) classification score at the best."""
    shift_frame_xy: NDArray[np.float64]
    """(N, 2) from the middle of the search crop, in frame pixels."""
    size_wh: NDArray[np.float64]
    """(N, 2) new sizes in frame pixels."""

    @property
    def cells(self) -> NDArray[np.int64]:
        """(N, 2) row and column."""
        return np.stack([self.best % CELLS**2 // CELLS, self.best % CELLS], axis=1)


def choose(cls: Tensor, loc: Tensor, size_wh: NDArray[np.float64], config: TrackConfig) -> Choice:
    """Pick the best anchor; large changes of size and ratio, and far moves, count against one (SiamRPN).

    Args:
        cls: (N, 2, 5, 25, 25) logits, background first.
        loc: (N, 4, 5, 25, 25) box offsets.
        size_wh: (N, 2) in the previous frame, in frame pixels.
        config: hyper-parameters.
    """
    scores = cls.double().softmax(dim=1)[:, 1].flatten(1).cpu().numpy()
    boxes_crop_cxcywh = decode_boxes(loc.double().flatten(2).transpose(1, 2).cpu(), ANCHORS).numpy()
    boxes = boxes_crop_cxcywh * (context_sides(size_wh) / TEMPLATE_SIZE)[:, None, None]
    penalty = _penalty(boxes[..., 2:], size_wh, config.penalty_k)
    ranked = scores
    if config.score == "penalised":
        ranked = penalty * scores * (1 - config.window_influence) + WINDOW * config.window_influence
    best = ranked.argmax(axis=1)
    rows = np.arange(len(best))
    box, score = boxes[rows, best], scores[rows, best]
    rate = (penalty[rows, best] * score * config.size_lr)[:, None]
    return Choice(ranked, best, score, box[:, :2], (1 - rate) * size_wh + rate * box[:, 2:])


def labels_from_soft_masks(soft_masks: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """(N, H, W) probabilities to (H, W) ids: the most probable object, background where none exceeds the threshold (SiamMask)."""
    best = soft_masks.argmax(axis=0)
    return np.where(soft_masks.max(axis=0) > threshold, best + 1, 0).astype(np.uint8)


def _penalty(size_wh: NDArray[np.float64], previous_wh: NDArray[np.float64], k: float) -> NDArray[np.float64]:
    """exp(-(scale change x ratio change - 1) k) of boxes (N, A, 2) against the previous size (N, 2) (SiamRPN)."""

    def change(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(ratio, 1 / ratio)

    previous = previous_wh[:, None]
    scale = change(context_sides(size_wh) / context_sides(previous))
    aspect = change((previous[..., 0] / previous[..., 1]) / (size_wh[..., 0] / size_wh[..., 1]))
    return np.exp(-(scale * aspect - 1) * k)


def _moved(targets: Targets, choice: Choice, frame_hw: tuple[int, int]) -> Targets:
    """The targets at their new places; centres stay in the frame, sizes between the smallest and the frame's (SiamMask)."""
    limit = frame_hw[::-1]
    centre = np.clip(targets.centre_frame_xy + choice.shift_frame_xy, 0, limit)
    return replace(targets, centre_frame_xy=centre, size_wh=np.clip(choice.size_wh, SMALLEST_SIZE, limit))


def _check_box(box_frame_xywh: Sequence[float], frame_hw: tuple[int, int], number: int) -> tuple[float, ...]:
    height, width = frame_hw
    text = ",".join(f"{value:g}" for value in box_frame_xywh)
    if len(box_frame_xywh) != 4 or not np.isfinite(box_frame_xywh).all():
        raise InputError(f"box {number} ({text}) is not four numbers x,y,width,height")
    x, y, w, h = (float(value) for value in box_frame_xywh)
    if w < 1 or h < 1:
        raise InputError(f"box {number} ({text}) has no area; give x,y,width,height in pixels of the first frame")
    if x < 0 or y < 0 or x + w > width or y + h > height:
        raise InputError(
            f"box {number} ({text}) reaches outside the frame, which is {width}x{height}; give x,y,width,height inside it"
        )
    return x, y, w, h
