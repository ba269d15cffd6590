"""Boxes, anchors, candidate windows and crops.

All coordinates are continuous: the pixel with index i covers [i, i + 1). So index i of SiamMask's
public code is i + 0.5 here.

Anchors and box offsets are those of SiamRPN, with the sizes of SiamMask's public code. The flat
index of an anchor is ``anchor * cells**2 + row * cells + column``.

A crop is a square of the frame around an object, resized to a fixed number of pixels (SiamFC). One
affine map serves image, mask and box; its inverse pastes a mask back.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Image = NDArray[np.uint8]
"""RGB (H, W, 3), several of them (N, H, W, 3), or object ids (H, W)."""
SoftMask = NDArray[np.float32]
"""Probabilities that pixels belong to an object."""
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of a frame or crop; pixel (column i, row j) covers [i, i+1) x [j, j+1).
"""

STRIDE = 8
TEMPLATE_SIZE = 127
"""Pixels of the template crop (paper 4.1) and of a candidate window (SiamMask)."""
CELLS = 25
"""Rows and columns of the correlation map of a 255 px search crop."""
WINDOW_MARGIN = 32
"""Pixels that the first window of a 255 px search crop reaches beyond the crop (SiamMask)."""
ANCHOR_RATIOS = (0.33, 0.5, 1.0, 2.0, 3.0)
ANCHOR_SCALE = 8


def anchor_sizes() -> Floats:
    """Return (5, 2) widths and heights in crop pixels: 104x32, 88x40, 64x64, 40x80, 32x96."""
    ratios = np.array(ANCHOR_RATIOS)  # height / width; both are cut to integers as in SiamMask
    widths = np.floor(np.sqrt(STRIDE * STRIDE / ratios))
    return ANCHOR_SCALE * np.stack([widths, np.floor(widths * ratios)], axis=-1)


def anchors_cxcywh(centre: float = 127.5, cells: int = CELLS) -> Floats:
    """Return the anchors, (5, cells, cells, 4), on a grid of stride 8 around `centre`.

    In training `centre` is the middle of the crop, 127.5 for 255 px. In tracking it is 0, so that
    anchors are relative to the middle of the crop.
    """
    offsets = centre + STRIDE * (np.arange(cells) - (cells - 1) / 2)
    widths, heights = anchor_sizes().T[:, :, None, None]
    return np.stack(np.broadcast_arrays(offsets, offsets[:, None], widths, heights), axis=-1)


def anchors_xyxy(centre: float = 127.5, cells: int = CELLS) -> Floats:
    """Return `anchors_cxcywh` as corners."""
    anchors = anchors_cxcywh(centre, cells)
    middle, half = anchors[..., :2], anchors[..., 2:] / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def encode_boxes(boxes_cxcywh: Floats, anchors: Floats) -> Floats:
    """Return offsets (dx / w, dy / h, log w, log h) of boxes (..., 4) relative to anchors."""
    centre = (boxes_cxcywh[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    return np.concatenate([centre, np.log(boxes_cxcywh[..., 2:] / anchors[..., 2:])], axis=-1)


def decode_boxes(offsets: Floats, anchors: Floats) -> Floats:
    """Return boxes (..., 4) as cx, cy, w, h from their offsets; the inverse of `encode_boxes`."""
    centre = offsets[..., :2] * anchors[..., 2:] + anchors[..., :2]
    return np.concatenate([centre, np.exp(offsets[..., 2:]) * anchors[..., 2:]], axis=-1)


def box_from_mask(mask: NDArray[np.bool_]) -> Box | None:
    """Return the upright bounding rectangle of a mask (paper 4.2); None if the mask is empty."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    return (float(x), float(y), float(x + width), float(y + height)) if width else None


def box_xywh(box_frame_xyxy: Box) -> tuple[float, float, float, float]:
    """Return x, y, width and height of a box given by its corners."""
    x1, y1, x2, y2 = box_frame_xyxy
    return x1, y1, x2 - x1, y2 - y1


CONTEXT = 0.5
Point = tuple[float, float]


def context_side(size_wh: ArrayLike) -> Floats:
    """Return the side in frame pixels (...) of the square that becomes the template of an object of
    this size (..., 2): the object with half its size as context (SiamFC)."""
    size_wh = np.asarray(size_wh)
    margin = CONTEXT * size_wh.sum(axis=-1, keepdims=True)
    return np.asarray(np.sqrt((size_wh + margin).prod(axis=-1)))


@dataclass(frozen=True)
class Crop:
    """An affine map from frame to crop coordinates, and the crop's size in pixels."""

    matrix: Floats
    """(2, 3), crop = matrix @ (x, y, 1)."""
    size: int
    outside: ClassVar[float] = 0.0
    """Value of a pasted soft mask where its window does not reach."""

    @classmethod
    def square(cls, centre_frame_xy: Point, side: float, size: int) -> Self:
        """Return the square of `side` frame pixels around a point, resized to `size` pixels."""
        scale = size / side
        return cls.affine(centre_frame_xy, (size / 2, size / 2), (scale, scale), size)

    @classmethod
    def affine(
        cls,
        centre_frame_xy: Point,
        centre_crop_xy: Point,
        scale_xy: Point,
        size: int,
        degrees: float = 0.0,
        flip: bool = False,
    ) -> Self:
        """Return the crop that flips (left to right), rotates and then scales the frame about a
        point, which it maps to a crop point. The two scales are crop pixels per frame pixel."""
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turn = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
        linear = np.diag(scale_xy) @ turn
        offset = np.array(centre_crop_xy) - linear @ np.array(centre_frame_xy)
        return cls(np.hstack([linear, offset[:, None]]), size)

    def image(self, frame: Image, fill: Any) -> Image:
        """Crop a frame (H, W, 3), bilinearly; beyond it is the colour `fill`, its mean (SiamFC)."""
        matrix, size = to_pixel_indices(self.matrix), (self.size, self.size)
        return cv2.warpAffine(frame, matrix, size, borderValue=fill)  # type: ignore[return-value]

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Crop a mask (H, W) bool: interpolate it as the image, then cut it at one half."""
        return self.image(mask.astype(np.uint8) * 255, 0) > 127

    def window_to_frame(self, window_crop_xy: Point, frame_hw: tuple[int, int]) -> Floats:
        """Return the map (2, 3) from pixel indices of a window to those of the frame."""
        to_window = self.matrix.copy()
        to_window[:, 2] -= window_crop_xy
        return to_pixel_indices(np.asarray(cv2.invertAffineTransform(to_window), np.float64))

    def box_to_crop(self, box_frame_xyxy: Box) -> Box:
        """Return the bounding rectangle of a frame box in crop coordinates."""
        x1, y1, x2, y2 = box_frame_xyxy
        return _bounds(self.matrix, (x1, x2, x1, x2), (y1, y1, y2, y2))

    def mask_box(self, mask: NDArray[np.bool_]) -> Box:
        """Return the bounding rectangle, in crop coordinates, of the object in a frame mask (H, W).

        It is exact for any rotation and holds the whole object, also what lies beyond the crop. The
        mask must not be empty.
        """
        rows = np.flatnonzero(mask.any(axis=1))
        left = mask[rows].argmax(axis=1)
        right = mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
        x, y = [left, right, left, right], [rows, rows, rows + 1, rows + 1]
        return _bounds(self.matrix, np.concatenate(x), np.concatenate(y))


@dataclass(frozen=True)
class SiamMaskCrop:
    """The square as SiamMask's public code cuts it, in whole pixels, to evaluate its checkpoints.

    The way back ignores that the place is rounded, so a pasted mask is shifted by up to a pixel.
    """

    centre_frame_xy: Point
    side: float
    size: int
    outside: ClassVar[float] = -1.0

    def image(self, frame: Image, fill: Any) -> Image:
        """Cut whole columns and rows and resize them; halves are rounded to even (SiamMask)."""
        side = round(self.side)
        left, top = (round(coordinate - (side + 1) / 2) for coordinate in self.centre_frame_xy)
        shift = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top]])
        fill = tuple(int(value) for value in fill)
        cut = cv2.warpAffine(frame, shift, (side, side), flags=cv2.INTER_NEAREST, borderValue=fill)
        return cv2.resize(cut, (self.size, self.size))  # type: ignore[return-value]

    def window_to_frame(self, window_crop_xy: Point, frame_hw: tuple[int, int]) -> Floats:
        """Return the map (2, 3) for the square before its place is rounded; as in SiamMask, the
        frame counts as one pixel smaller."""
        side = round(self.side)
        unit = side / self.size
        corner = np.array(self.centre_frame_xy) - side / 2 + unit * np.array(window_crop_xy)
        height, width = frame_hw
        shrink = np.array([(width - 1) / width, (height - 1) / height])
        return np.hstack([np.diag(shrink * unit), (shrink * corner)[:, None]])


ContextCrop = Crop | SiamMaskCrop
CROPS: dict[str, Callable[[Point, float, int], ContextCrop]] = {
    "exact": Crop.square,
    "siammask": SiamMaskCrop,
}
"""Makers of crops by ``track.crop``: from centre and side in frame pixels, and size in pixels."""


def to_pixel_indices(matrix: Floats) -> Floats:
    """Return the same map between pixel indices (centres at index + 0.5), as OpenCV needs it."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return shifted


class Patch(NamedTuple):
    """A soft mask in the part of the frame that its window covers."""

    soft: SoftMask
    """(h, w) probabilities."""
    rows: slice
    columns: slice

    def in_frame(self, frame_hw: tuple[int, ...], outside: float) -> SoftMask:
        """Return the mask of the whole frame, (H, W); `outside` is its value around the patch."""
        whole = np.full(frame_hw, outside, np.float32)
        whole[self.rows, self.columns] = self.soft
        return whole


def is_far(box_frame_xyxy: Box, width: float, height: float) -> bool:
    """Return whether a box reaches beyond an image by more than the size of the image."""
    x1, y1, x2, y2 = box_frame_xyxy
    return x1 < -width or y1 < -height or x2 > 2 * width or y2 > 2 * height


def paste_patch(
    soft_mask: SoftMask, window_crop_xy: Point, crop: ContextCrop, frame_hw: tuple[int, int]
) -> Patch:
    """Bring the soft mask (127, 127) of a candidate window back to the part of the frame that it
    covers, bilinearly. The window is given by its top left corner."""
    matrix = crop.window_to_frame(window_crop_xy, frame_hw)
    # one pixel beyond the mask, bilinear values are those of the outside
    first, last = -1.0, float(len(soft_mask))
    left, top, right, bottom = _bounds(matrix, (first, last) * 2, (first, first, last, last))
    rows, columns = _whole_pixels(top, bottom, frame_hw[0]), _whole_pixels(left, right, frame_hw[1])
    size = (columns.stop - columns.start, rows.stop - rows.start)
    if min(size) == 0:
        return Patch(np.zeros(size[::-1], np.float32), rows, columns)
    matrix[:, 2] -= (columns.start, rows.start)
    soft = cv2.warpAffine(soft_mask, matrix, size, borderValue=crop.outside)
    return Patch(soft, rows, columns)  # type: ignore[arg-type]


def _whole_pixels(first: float, last: float, limit: int) -> slice:
    """Return the pixel indices between two positions, inside a frame of `limit` pixels."""
    start = min(max(math.floor(first), 0), limit)
    return slice(start, max(min(math.ceil(last) + 1, limit), start))


def _bounds(matrix: Floats, x: ArrayLike, y: ArrayLike) -> Box:
    """Return the bounding rectangle of mapped points."""
    corners = matrix @ np.stack([x, y, np.ones_like(x, float)])
    (left, top), (right, bottom) = corners.min(axis=1), corners.max(axis=1)
    return float(left), float(top), float(right), float(bottom)
