"""Follow objects through a video: locate, segment, paste back.

This is "Inference" of the paper's section 4.1, with the penalty and the window of SiamMask's
tracker. All of it is numpy; the network is behind a `Backend` and keeps no state. The state of the
objects is a `Targets` value. Each step takes it and returns a new one, so several videos can share
one tracker.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco_mask

from e3sn_lib import geometry
from e3sn_lib.config import TrackConfig
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import CELLS, TEMPLATE_SIZE, ContextCrop, Floats, Image, Patch, context_side
from e3sn_lib.tracking import confidence
from e3sn_lib.tracking.backends import Backend

FourNumbers = Sequence[float] | NDArray[Any]
"""Left, top, width and height of a box."""
Boxes = Sequence[FourNumbers] | NDArray[Any]
Select = Callable[[Floats, Floats], NDArray[np.int64]]
"""Returns an anchor of each object (N,), from the ranks (N, 3125) and the boxes (N, 3125, 4) of
all, which are centre and size in crop pixels from the middle of the crop."""
SEARCH_SIZE = 255
MOST_OBJECTS = 254
"""Masks hold ids in 8 bits; 0 is background, and 255 means "do not score" in DAVIS."""
SMALLEST_SIZE = 10.0
"""Width and height of a tracked box never fall below this many pixels (SiamMask)."""
ROUNDING = 1e-6
"""Pixels by which a box may reach outside the frame, for sums that are not exact."""
ANCHORS = geometry.anchors_cxcywh(centre=0.0).reshape(-1, 4)
"""(3125, 4) relative to the middle of a search crop."""
MOST_PLACES, LEAST_RANK, SAME_PLACE = 3, 0.3, 0.1
"""Largest number of places where an object may be; least rank of a place, as a share of the best
rank; the IoU above which two boxes are at the same place (ours)."""
WINDOW = np.tile(np.outer(np.hanning(CELLS), np.hanning(CELLS)).ravel(), len(ANCHORS) // CELLS**2)
"""(3125,) how much an anchor is favoured for being near the middle."""


@dataclass(frozen=True)
class Targets:
    """State of N objects between two frames."""

    template: Any
    """What the backend keeps of the objects, see `Backend.encode_template`."""
    centre_frame_xy: Floats
    """(N, 2)."""
    size_wh: Floats
    """(N, 2) in frame pixels."""
    fill: tuple[float, ...]
    """Mean colour of the first frame, which pads crops of the whole video (SiamMask)."""
    frame_hw: tuple[int, int]
    """Height and width of all frames."""
    colours: Floats
    """(N, 256) `mask_colours` of each object's first mask; 0 before it is known."""
    shares: Floats
    """(N, 4096) `colour_shares` of each object's first mask, times their weight; 0: colours do not
    count."""

    def boxes_frame_xyxy(self) -> Floats:
        """Return the boxes, (N, 4)."""
        half = self.size_wh / 2
        return np.hstack([self.centre_frame_xy - half, self.centre_frame_xy + half])

    def select(self, objects: list[int]) -> Self:
        """Return the state of some of the objects."""
        names = ("centre_frame_xy", "size_wh", "colours", "shares")
        chosen = {name: getattr(self, name)[objects] for name in names}
        return replace(self, template=self.template.select(objects), **chosen)

    def moved_to(self, boxes_frame_xyxy: ArrayLike) -> Self:
        """Return the state of the same objects at other places."""
        boxes = np.array(boxes_frame_xyxy, np.float64)
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        return replace(self, centre_frame_xy=centre, size_wh=size)


@dataclass(frozen=True)
class FrameResult:
    """The result of one step in one frame."""

    ids: Image
    """(H, W): 0 background, k for the k-th box given at the start."""
    patches: tuple[Patch, ...]
    """The probabilities of each object in the part of the frame under its window."""
    scores: Floats
    """(N,) classification score of the chosen position, 0 to 1; 1 where the box was given."""
    boxes_frame_xyxy: Floats
    """(N, 4)."""
    features: Floats
    """(N, 4) what tells good masks from bad ones, see `mask_features`."""
    outside: float = 0.0
    """The value of a soft mask outside its window: 0, or -1 with ``track.crop=siammask``."""

    @property
    def predicted_j(self) -> Floats:
        """(N,) predicted region similarity J of each mask, 0 to 1."""
        return confidence.predict_j(self.features)

    @property
    def soft_masks(self) -> geometry.SoftMask:
        """Return probabilities in the whole frame, (N, H, W). `patches` take much less memory."""
        return np.stack([each.in_frame(self.ids.shape, self.outside) for each in self.patches])

    def labels(self, threshold: float) -> Image:
        """Return the ids at another threshold, 0 to 1."""
        return labels_from_patches(dict(enumerate(self.patches, 1)), self.ids.shape, threshold)


class Tracker:
    """Follow objects through a video from boxes in its first frame.

    Args:
        network: a trained network (it is put into evaluation mode), what `load_model` or
            `load_export` returns, or any backend.
        config: hyper-parameters of inference; None: those of the network, or the defaults.
        precision: of a torch network, see `precision_of`; below ``fp32`` some pixels differ.
    """

    def __init__(
        self, network: Any, config: TrackConfig | None = None, precision: str = "fp32"
    ) -> None:
        if isinstance(network, tuple):
            network, profile = network
            config = config or profile.track
        if not hasattr(network, "search"):  # a torch network, which no import may need
            if not hasattr(network, "parameters"):
                advice = "give what load_model or load_export returns"
                raise InputError(f"a tracker needs a network, not {network!r}; {advice}")
            from e3sn_lib.model.torch_backend import TorchBackend

            network = TorchBackend(network, precision)
        self.backend: Backend = network
        self.config: TrackConfig = config or getattr(network, "config", None) or TrackConfig()
        if not isinstance(self.config, TrackConfig):
            kind = type(self.config).__name__
            raise InputError(f"a tracker needs a TrackConfig, not {kind}; see profile.track")

    def run(self, frames: Iterable[Image], boxes_frame_xywh: Boxes) -> Iterator[FrameResult]:
        """Yield one result per frame of a video; that of the first frame has the given boxes.

        Raises InputError for no frame, frames of different sizes, or a box that cannot be followed.

        Args:
            frames: (H, W, 3) RGB uint8, all of one size; read one at a time.
            boxes_frame_xywh: x, y, width and height of each object in the first frame.
        """
        targets: Targets | None = None
        for index, frame in enumerate(frames):
            check_frame(frame, targets.frame_hw if targets else None, f"frame {index}")
            if targets is None:
                targets = self.start(frame, boxes_frame_xywh)
            targets, result = self.step(frame, targets, move=index > 0)
            yield result
        if targets is None:
            raise InputError("the video has no frames")

    def start(self, frame: Image, boxes_frame_xywh: Boxes, numbers: Sequence[int] = ()) -> Targets:
        """Return the state of the objects in the first frame; frame and boxes are as in `run`.

        Errors name a box by its object's number; without `numbers` they are 1, 2, ... Raises
        InputError if there is no box, or if one cannot be followed.
        """
        check_frame(frame)
        if len(boxes_frame_xywh) == 0:
            raise InputError("no box is given, so there is nothing to follow")
        if len(boxes_frame_xywh) > MOST_OBJECTS:
            count = f"there are {len(boxes_frame_xywh)} boxes"
            raise InputError(f"{count}, but a mask holds {MOST_OBJECTS} objects; give fewer")
        numbers = numbers or range(1, len(boxes_frame_xywh) + 1)
        for number, box in zip(numbers, boxes_frame_xywh, strict=True):
            check_box(box, frame.shape[:2], number)
        boxes = np.array(boxes_frame_xywh, np.float64)
        fill = cv2.mean(frame)[:3]
        centre, size = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]
        crops = [crop.image(frame, fill) for crop in self._crops(centre, size, TEMPLATE_SIZE)]
        template = self.backend.encode_template(np.stack(crops))
        colours = np.zeros((len(boxes), confidence.COLOUR_BINS**2))
        shares = np.zeros((len(boxes), confidence.COLOUR_BINS**3))
        return Targets(template, centre, size, fill, frame.shape[:2], colours, shares)

    def step(
        self, frame: Image, targets: Targets, move: bool = True, colour_weight: float = 0.0
    ) -> tuple[Targets, FrameResult]:
        """Find and segment the objects in the next frame, (H, W, 3) RGB uint8; raises InputError if
        it is of another kind or size.

        Args:
            targets: state after the previous frame.
            move: False: segment at the known position, for a frame whose boxes are given.
            colour_weight: with ``move=False``, how much the colours of these masks count in later
                frames, where an object may be at several places; 0: not at all.
        """
        check_frame(frame, targets.frame_hw)
        frame_hw = targets.frame_hw
        crops = self._crops(targets.centre_frame_xy, targets.size_wh, SEARCH_SIZE)
        images = np.stack([crop.image(frame, targets.fill) for crop in crops])
        *found, features = self.backend.search(images, targets.template)
        cls, loc = map(_finite, found)
        cells, scores = np.full((len(crops), 2), CELLS // 2), np.ones(len(crops))
        if move:
            select = partial(_by_colour, images, targets.shares) if targets.shares.any() else None
            choice = choose(cls, loc, targets.size_wh, self.config, select)
            cells, scores, limit = choice.cells, choice.scores, frame_hw[::-1]
            # centres stay in the frame, sizes between the smallest and the frame's (SiamMask)
            centre = np.clip(targets.centre_frame_xy + choice.shift_frame_xy, 0, limit)
            size = np.clip(choice.size_wh, SMALLEST_SIZE, limit)
            targets = replace(targets, centre_frame_xy=centre, size_wh=size)
        soft = _sigmoid(_finite(self.backend.segment(targets.template, features, cells)))
        corners_crop_xy = (geometry.STRIDE * cells[:, ::-1] - geometry.WINDOW_MARGIN).tolist()
        windows = zip(soft, corners_crop_xy, crops, strict=True)
        patches = tuple(geometry.paste_patch(*window, frame_hw) for window in windows)
        threshold, boxes = self.config.mask_threshold, targets.boxes_frame_xyxy()
        ids = labels_from_patches(dict(enumerate(patches, 1)), frame_hw, threshold)
        colours = confidence.mask_colours(frame, patches, threshold)
        first = np.where(targets.colours.any(axis=1, keepdims=True), targets.colours, colours)
        targets = replace(targets, colours=first)
        if colour_weight and not move:
            around = (SEARCH_SIZE - TEMPLATE_SIZE) // 2  # of the window in the middle of the crop
            masks = (np.pad(each > threshold, around) for each in soft)
            pairs = zip(images, masks, strict=True)
            shares = [
                confidence.colour_shares(confidence.colour_histograms(*each)) for each in pairs
            ]
            targets = replace(targets, shares=colour_weight * np.stack(shares))
        same = confidence.colour_agreement(colours, first)
        known = confidence.mask_features(scores, soft, threshold, same)
        return targets, FrameResult(ids, patches, scores, boxes, known, crops[0].outside)

    def _crops(self, centre_frame_xy: Floats, size_wh: Floats, pixels: int) -> list[ContextCrop]:
        cut = geometry.CROPS[self.config.crop]
        sides = context_side(size_wh) * pixels / TEMPLATE_SIZE
        places = zip(centre_frame_xy.tolist(), sides.tolist(), strict=True)
        return [cut((x, y), side, pixels) for (x, y), side in places]


class Choice(NamedTuple):
    """The best anchor of each of N objects in its search crop."""

    ranked: Floats
    """(N, 3125) what was maximised: the score, penalised and windowed or not."""
    best: NDArray[np.int64]
    """(N,) flat anchor index."""
    scores: Floats
    """(N,) classification score at the best."""
    shift_frame_xy: Floats
    """(N, 2) from the middle of the search crop, in frame pixels."""
    size_wh: Floats
    """(N, 2) new sizes in frame pixels."""

    @property
    def cells(self) -> NDArray[np.int64]:
        """Return row and column of the best anchors, (N, 2)."""
        return np.stack([self.best % CELLS**2 // CELLS, self.best % CELLS], axis=1)


def choose(
    cls: NDArray[np.float32],
    loc: NDArray[np.float32],
    size_wh: Floats,
    config: TrackConfig,
    select: Select | None = None,
) -> Choice:
    """Pick the best anchor of each object (SiamRPN).

    Changes of size and ratio count against an anchor, and so does its distance from the middle.

    Args:
        cls: (N, 2, 5, 25, 25) logits, background first.
        loc: (N, 4, 5, 25, 25) box offsets.
        size_wh: (N, 2) in the previous frame, in frame pixels.
        select: picks the best; None: it is the one with the highest rank.
    """
    logits = np.asarray(cls, np.float64).reshape(len(cls), 2, -1)
    scores = _sigmoid(logits[:, 1] - logits[:, 0])
    offsets = np.asarray(loc, np.float64).reshape(len(loc), 4, -1).transpose(0, 2, 1)
    boxes_crop_cxcywh = geometry.decode_boxes(offsets, ANCHORS)
    boxes = boxes_crop_cxcywh * (context_side(size_wh) / TEMPLATE_SIZE)[:, None, None]
    penalty = _penalty(boxes[..., 2:], size_wh, config.penalty_k)
    ranked = scores
    if config.score == "penalised":
        ranked = penalty * scores * (1 - config.window_influence) + WINDOW * config.window_influence
    best = select(ranked, boxes_crop_cxcywh) if select else ranked.argmax(axis=1)
    rows = np.arange(len(best))
    box, score = boxes[rows, best], scores[rows, best]
    rate = (penalty[rows, best] * score * config.size_lr)[:, None]
    return Choice(ranked, best, score, box[:, :2], (1 - rate) * size_wh + rate * box[:, 2:])


def _by_colour(
    crops: Image, shares: Floats, ranked: Floats, boxes_cxcywh: Floats
) -> NDArray[np.int64]:
    """Pick each object's best place by its rank and the mean share of its colours, see `Select`.

    Only the best box of each place competes.
    """
    best = []
    for crop, own, ranks, boxes in zip(crops, shares, ranked, boxes_cxcywh, strict=True):
        places = _places(ranks, boxes)
        if len(places) > 1:
            likeness = confidence.likeness(crop, own)
            middles, half = boxes[places, :2] + SEARCH_SIZE / 2, boxes[places, 2:] / 2
            corners = np.hstack([middles - half, middles + half]).round().clip(0, SEARCH_SIZE)
            parts = [likeness[y1:y2, x1:x2] for x1, y1, x2, y2 in corners.astype(int)]
            alike = [part.mean() if part.size else 0 for part in parts]
            places = [places[np.argmax(ranks[places] + alike)]]
        best.append(places[0])
    return np.array(best)


def _places(ranks: Floats, boxes_cxcywh: Floats) -> list[int]:
    """Return the anchors of the places where an object may be, the best one first."""
    boxes_xywh = np.hstack([boxes_cxcywh[:, :2] - boxes_cxcywh[:, 2:] / 2, boxes_cxcywh[:, 2:]])
    found, left = [int(ranks.argmax())], ranks.copy()
    while len(found) < MOST_PLACES:
        overlap = coco_mask.iou(boxes_xywh, boxes_xywh[found[-1:]], [False])[:, 0]
        left[overlap > SAME_PLACE] = -1
        place = int(left.argmax())
        if not left[place] >= LEAST_RANK * ranks[found[0]]:
            break
        found.append(place)
    return found


def labels_from_patches(
    patches: Mapping[int, Patch], frame_hw: tuple[int, ...], threshold: float
) -> Image:
    """Return the number of the most probable object at each pixel, (H, W).

    It is 0, background, where no probability exceeds the threshold (SiamMask). Outside their
    patches probabilities are 0. Of equally probable objects the lowest number is taken.
    """
    ids = np.zeros(frame_hw, np.uint8)
    best = np.zeros(frame_hw, np.float32)  # only what is touched takes memory and time
    for number, (soft, rows, columns) in sorted(patches.items()):
        better = soft > np.maximum(best[rows, columns], threshold)
        np.copyto(best[rows, columns], soft, where=better)
        np.copyto(ids[rows, columns], np.uint8(number), where=better)
    return ids


def _finite(answers: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(answers).all():
        raise InputError("the network's answers are not finite numbers; use another model")
    return answers


def _sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # an infinite exp gives 0, as it should
        return 1 / (1 + np.exp(-logits))


def _penalty(size_wh: Floats, previous_wh: Floats, k: float) -> Floats:
    """Return exp(-(change of scale x change of ratio - 1) k) of boxes (N, A, 2) (SiamRPN)."""

    def change(ratio: Floats) -> Floats:
        return np.maximum(ratio, 1 / ratio)

    previous = previous_wh[:, None]
    scale = change(context_side(size_wh) / context_side(previous))
    aspect = change((previous[..., 0] / previous[..., 1]) / (size_wh[..., 0] / size_wh[..., 1]))
    return np.exp(-(scale * aspect - 1) * k)


def check_frame(
    frame: Image, frame_hw: tuple[int, int] | None = None, name: str = "a frame"
) -> None:
    """Raise InputError for a frame that is not (H, W, 3) uint8, or not of the size of the first."""
    shape, kind = np.shape(frame), getattr(frame, "dtype", type(frame).__name__)
    if kind != np.uint8 or len(shape) != 3 or shape[2] != 3:
        raise InputError(f"{name} is {kind} of shape {shape}; give RGB, uint8 of (H, W, 3)")
    if frame_hw and shape[:2] != frame_hw:
        sizes = "{1}x{0}, the first one {3}x{2}".format(*shape[:2], *frame_hw)
        raise InputError(f"{name} is {sizes}; all must have one size")


def check_box(box_frame_xywh: FourNumbers, frame_hw: tuple[int, ...], number: int) -> None:
    """Raise InputError for a box that is not four numbers, with an area, inside the frame."""
    height, width = frame_hw
    try:
        values = np.array(box_frame_xywh, np.float64)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    box = f"box {number} ({','.join(f'{value:g}' for value in values.flat)})"
    if values.shape != (4,) or not np.isfinite(values).all():
        raise InputError(f"{box} is not four numbers x,y,width,height")
    x, y, w, h = values.tolist()
    if w < 1 or h < 1:
        raise InputError(f"{box} has no area; give x,y,width,height in pixels of the frame")
    if min(x, y, width - x - w, height - y - h) < -ROUNDING:
        place = f"reaches outside the frame, which is {width}x{height}"
        raise InputError(f"{box} {place}; give x,y,width,height inside it")
