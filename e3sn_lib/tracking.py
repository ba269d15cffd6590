"""Following objects through a video: locate, segment, paste back (paper 4.1 "Inference"; SiamMask's tracker).

The network knows nothing of objects. Their state is a `Targets` value that goes into each step and comes out changed, so that
several videos can share one tracker and all objects of a frame go through the network as one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e3sn_lib.boxes import CELLS, STRIDE, TEMPLATE_SIZE, anchors_cxcywh, decode_boxes
from e3sn_lib.config import TrackConfig
from e3sn_lib.crops import CONTEXT, Crop, context_side, paste_mask, search_crop
from e3sn_lib.data.types import Box
from e3sn_lib.errors import InputError
from e3sn_lib.model.network import MARGIN, E3SN, Search, Template
from e3sn_lib.model.windows import Cells

SEARCH_SIZE = 255
SMALLEST_SIZE = 10.0
"""Width and height of a tracked box never fall below this many pixels (SiamMask)."""


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
    """(N, H, W) object probabilities, 0 outside the chosen window."""
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
    """

    def __init__(self, model: E3SN, config: TrackConfig | None = None, device: torch.device | str | None = None) -> None:
        self.config = config or TrackConfig()
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.model = model.to(self.device).eval()
        self.model.backbone.skip_zero_taps()
        self.anchors = anchors_cxcywh(centre=0.0).reshape(-1, 4)
        self.window = np.tile(np.outer(np.hanning(CELLS), np.hanning(CELLS)).ravel(), len(self.anchors) // CELLS**2)

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
        crops = [Crop.square(tuple(c), context_side(*s), TEMPLATE_SIZE).image(frame, fill) for c, s in zip(centre, size, strict=True)]
        with torch.inference_mode():
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
        crops = [search_crop(tuple(c), tuple(s)) for c, s in zip(targets.centre_frame_xy, targets.size_wh, strict=True)]
        search = self.model.encode_search(self._tensor([crop.image(frame, targets.fill) for crop in crops]))
        if move:
            cells, scores, targets = self._locate(search, targets, crops, frame.shape[:2])
        else:
            centre = np.full(len(crops), CELLS // 2)
            cells, scores = np.stack([centre, centre], axis=1), np.ones(len(crops))
        soft = self._segment(search, targets.template, cells, crops, frame.shape[:2])
        ids = labels_from_soft_masks(soft, self.config.mask_threshold)
        return targets, FrameResult(ids, soft, scores, targets.boxes_frame_xyxy())

    def _locate(
        self, search: Search, targets: Targets, crops: list[Crop], frame_hw: tuple[int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], Targets]:
        """The best cell of each object (N, 2), its score (N,), and the moved targets."""
        cls, loc = self.model.locate(targets.template, search)
        scores = cls.double().softmax(dim=1)[:, 1].flatten(1).cpu().numpy()
        boxes = decode_boxes(loc.double().flatten(2).transpose(1, 2).cpu(), self.anchors).numpy()  # crop pixels, around the crop's middle
        scale = np.array([crop.matrix[0, 0] for crop in crops])
        size_crop = targets.size_wh * scale[:, None]
        penalty = _penalty(boxes[..., 2:], size_crop, self.config.penalty_k)
        ranked = scores
        if self.config.score == "penalised":
            influence = self.config.window_influence
            ranked = penalty * scores * (1 - influence) + self.window * influence
        best = ranked.argmax(axis=1)
        rows = np.arange(len(best))
        box, score = boxes[rows, best], scores[rows, best]
        rate = (penalty[rows, best] * score * self.config.size_lr)[:, None]
        height, width = frame_hw
        centre = np.clip(targets.centre_frame_xy + box[:, :2] / scale[:, None], 0, (width, height))
        size = np.clip((1 - rate) * targets.size_wh + rate * box[:, 2:] / scale[:, None], SMALLEST_SIZE, (width, height))
        cells = np.stack([best % CELLS**2 // CELLS, best % CELLS], axis=1)
        return cells, score, replace(targets, centre_frame_xy=centre, size_wh=size)

    def _segment(
        self, search: Search, template: Template, cells: NDArray[np.int64], crops: list[Crop], frame_hw: tuple[int, int]
    ) -> NDArray[np.float32]:
        rows, columns = (torch.from_numpy(part.copy()).to(self.device) for part in cells.T)
        chosen = Cells(torch.arange(len(cells), device=self.device), rows, columns)
        soft = self.model.segment(template, search, chosen).sigmoid().cpu().numpy()
        margin = MARGIN[SEARCH_SIZE]
        corners = [(float(column * STRIDE - margin), float(row * STRIDE - margin)) for row, column in cells]
        return np.stack([paste_mask(m, corner, crop, frame_hw) for m, corner, crop in zip(soft, corners, crops, strict=True)])

    def _tensor(self, crops: list[NDArray[np.uint8]]) -> Tensor:
        return torch.from_numpy(np.stack(crops)).to(self.device).permute(0, 3, 1, 2)


def labels_from_soft_masks(soft_masks: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """(N, H, W) probabilities to (H, W) ids: the most probable object, background where none exceeds the threshold (SiamMask)."""
    best = soft_masks.argmax(axis=0)
    return np.where(soft_masks.max(axis=0) > threshold, best + 1, 0).astype(np.uint8)


def _penalty(size_wh: NDArray[np.float64], previous_wh: NDArray[np.float64], k: float) -> NDArray[np.float64]:
    """exp(-(scale change x ratio change - 1) k) of boxes (N, A, 2) against the previous size (N, 2) (SiamRPN)."""

    def side(size: NDArray[np.float64]) -> NDArray[np.float64]:
        margin = CONTEXT * size.sum(axis=-1, keepdims=True)
        return np.asarray(np.sqrt((size + margin).prod(axis=-1)))

    def change(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(ratio, 1 / ratio)

    previous = previous_wh[:, None]
    scale = change(side(size_wh) / side(previous))
    aspect = change((previous[..., 0] / previous[..., 1]) / (size_wh[..., 0] / size_wh[..., 1]))
    return np.exp(-(scale * aspect - 1) * k)


def _check_box(box_frame_xywh: Sequence[float], frame_hw: tuple[int, int], number: int) -> tuple[float, ...]:
    height, width = frame_hw
    text = ",".join(f"{value:g}" for value in box_frame_xywh)
    if len(box_frame_xywh) != 4 or not np.isfinite(box_frame_xywh).all():
        raise InputError(f"box {number} ({text}) is not four numbers x,y,width,height")
    x, y, w, h = (float(value) for value in box_frame_xywh)
    if w < 1 or h < 1:
        raise InputError(f"box {number} ({text}) has no area; give x,y,width,height in pixels of the first frame")
    if x < 0 or y < 0 or x + w > width or y + h > height:
        raise InputError(f"box {number} ({text}) reaches outside the frame, which is {width}x{height}; give x,y,width,height inside it")
    return x, y, w, h


def box_xywh(box_frame_xyxy: Box) -> tuple[float, float, float, float]:
    """Corners to x, y, width, height."""
    x1, y1, x2, y2 = box_frame_xyxy
    return x1, y1, x2 - x1, y2 - y1
