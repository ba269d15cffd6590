"""SiamFC's context crop: one affine map for image, mask and box; pasting back is its inverse.

Frame and crop coordinates are continuous (pixel i covers [i, i + 1)). A crop of a frame is a square whose side depends on the
object's size, padded where it leaves the frame and resized to a fixed number of pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from e3sn_lib.boxes import TEMPLATE_SIZE
from e3sn_lib.data.types import Box

CONTEXT = 0.5


def context_side(width: float, height: float) -> float:
    """Side in frame pixels of the square around an object that becomes the 127 px template (SiamFC: half the size as context)."""
    margin = CONTEXT * (width + height)
    return math.sqrt((width + margin) * (height + margin))


@dataclass(frozen=True)
class Crop:
    """An affine map from frame to crop coordinates, and the crop's size in pixels."""

    matrix: NDArray[np.float64]
    """(2, 3), crop = matrix @ (x, y, 1)."""
    size: int

    @classmethod
    def square(cls, centre_frame_xy: tuple[float, float], side: float, size: int) -> Crop:
        """The square of `side` frame pixels around a point, resized to `size` pixels."""
        return cls.similarity(centre_frame_xy, (size / 2, size / 2), (size / side, size / side), size)

    @classmethod
    def similarity(
        cls,
        centre_frame_xy: tuple[float, float],
        centre_crop_xy: tuple[float, float],
        scale_xy: tuple[float, float],
        size: int,
        degrees: float = 0.0,
        flip: bool = False,
    ) -> Crop:
        """Map a frame point to a crop point, scaling x and y apart, after a rotation and a left-right flip about that point."""
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turn = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
        linear = np.diag(scale_xy) @ turn
        offset = np.array(centre_crop_xy) - linear @ np.array(centre_frame_xy)
        return cls(np.hstack([linear, offset[:, None]]), size)

    def image(self, frame: NDArray[np.uint8], fill: Any) -> NDArray[np.uint8]:
        """Crop a frame (H, W, 3), bilinearly; outside the frame the colour `fill` (SiamFC: the frame's mean)."""
        return self._warp(frame, cv2.INTER_LINEAR, fill)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Crop a mask (H, W) bool: interpolated, then cut at one half, so that its edge is where the image's edge is."""
        return self._warp(mask.astype(np.uint8) * 255, cv2.INTER_LINEAR, 0) > 127  # type: ignore[no-any-return]

    def _warp(self, array: NDArray[np.uint8], interpolation: int, fill: Any) -> NDArray[np.uint8]:
        matrix = to_pixel_indices(self.matrix)
        return cv2.warpAffine(  # type: ignore[return-value]
            array, matrix, (self.size, self.size), flags=interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
        )

    def box_to_crop(self, box_frame_xyxy: Box) -> Box:
        """The bounding rectangle, in the crop, of a frame box."""
        return _map_box(self.matrix, box_frame_xyxy)

    def box_to_frame(self, box_crop_xyxy: Box) -> Box:
        """The bounding rectangle, in the frame, of a crop box."""
        return _map_box(cv2.invertAffineTransform(self.matrix), box_crop_xyxy)


def to_pixel_indices(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same map between pixel indices, whose centres lie at index + 0.5, as OpenCV wants it."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return shifted


def paste_mask(
    soft_mask: NDArray[np.float32], window_crop_xy: tuple[float, float], crop: Crop, frame_hw: tuple[int, int], outside: float = 0.0
) -> NDArray[np.float32]:
    """Bring a window's soft mask back to the frame: the inverse of the crop, bilinearly.

    Args:
        soft_mask: (127, 127) values of a candidate window, at the crop's resolution.
        window_crop_xy: the window's top left corner in crop coordinates.
        crop: where the crop was taken from the frame.
        frame_hw: size of the frame.
        outside: value of frame pixels that the window does not cover.

    Returns:
        (H, W) float32.
    """
    from_window = crop.matrix.copy()
    from_window[:, 2] -= window_crop_xy
    matrix = to_pixel_indices(cv2.invertAffineTransform(from_window))
    return cv2.warpAffine(  # type: ignore[return-value]
        soft_mask, matrix, frame_hw[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=outside
    )


def _map_box(matrix: NDArray[np.float64], box_xyxy: Box) -> Box:
    x1, y1, x2, y2 = box_xyxy
    corners = matrix @ np.array([[x1, x2, x1, x2], [y1, y1, y2, y2], [1.0, 1.0, 1.0, 1.0]])
    (left, top), (right, bottom) = corners.min(axis=1), corners.max(axis=1)
    return float(left), float(top), float(right), float(bottom)


def template_crop(box_frame_xyxy: Box) -> Crop:
    """The 127 px crop around an object, with context."""
    x1, y1, x2, y2 = box_frame_xyxy
    return Crop.square(((x1 + x2) / 2, (y1 + y2) / 2), context_side(x2 - x1, y2 - y1), TEMPLATE_SIZE)


def search_crop(centre_frame_xy: tuple[float, float], size_wh: tuple[float, float], size: int = 255) -> Crop:
    """The search crop: the template's scale, `size` pixels wide."""
    return Crop.square(centre_frame_xy, context_side(*size_wh) * size / TEMPLATE_SIZE, size)
