"""Random changes of a training pair.

All geometry is in one `Crop`, so that image, mask and box stay on the same pixels.
"""

from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from e3sn_lib.geometry import TEMPLATE_SIZE, Box, Crop, Image, context_side

GREY = np.array([0.299, 0.587, 0.114])
FILLED_SIDE = 100
"""Pixels of the longer side of an image in which the old place of a moved object is filled."""


def random_crop(
    box_frame_xyxy: Box,
    size: int,
    shift: float,
    scale: float,
    rng: Generator,
    *,
    zoom: float = 0.0,
    degrees: float = 0.0,
    flip: bool = False,
) -> Crop:
    """Return a random crop with context around an object.

    Args:
        size: of the crop in pixels.
        shift: largest move of the object from the middle, in crop pixels per axis.
        scale: largest change of the width, and of the height, as a share of each.
        zoom: largest change of both together, as a share.
        degrees: of rotation.
    """
    x1, y1, x2, y2 = box_frame_xyxy
    base = TEMPLATE_SIZE / context_side((x2 - x1, y2 - y1))
    stretch = rng.uniform(1 - scale, 1 + scale, 2)
    scale_x, scale_y = base * stretch * (1 + zoom) ** rng.uniform(-1, 1)
    move_x, move_y = rng.uniform(-shift, shift, 2)
    centre_frame_xy = (x1 + x2) / 2, (y1 + y2) / 2
    centre_crop_xy = size / 2 + move_x, size / 2 + move_y
    return Crop.affine(centre_frame_xy, centre_crop_xy, (scale_x, scale_y), size, degrees, flip)


def change_colour(image: Image, strength: float, rng: Generator) -> Image:
    """Change saturation, contrast, brightness and tint of an image (H, W, 3) by a random map;
    results are clipped to 0 and 255.

    `strength`, a share, is the largest change of saturation and contrast, and of brightness as a
    share of 128. The tint changes by a quarter of it.
    """
    if strength == 0:
        return image
    saturation, contrast = rng.uniform(1 - strength, 1 + strength, 2)
    brightness = rng.uniform(-strength, strength) * 128
    tint = rng.uniform(1 - strength / 4, 1 + strength / 4, 3)
    linear = contrast * tint[:, None] * (saturation * np.eye(3) + (1 - saturation) * GREY[None])
    offset = np.full((3, 1), brightness + 128 * (1 - contrast))
    return cv2.transform(image, np.hstack([linear, offset]).astype(np.float32))  # type: ignore[return-value]


def to_grey(image: Image) -> Image:
    """Return the grey values of an image in all three channels."""
    return cv2.transform(image, np.tile(GREY, (3, 1)).astype(np.float32))  # type: ignore[return-value]


def motion_blur(image: Image, rng: Generator) -> Image:
    """Blur along a random direction, over a random length of up to a tenth of the crop."""
    length = int(rng.integers(3, max(image.shape[0] // 10, 4)))
    angle = rng.uniform(0, np.pi)
    kernel = np.zeros((length, length), np.float32)
    middle = (length - 1) / 2
    steps = np.linspace(-middle, middle, 4 * length)
    rows, columns = np.rint(middle + steps * np.sin(angle)), np.rint(middle + steps * np.cos(angle))
    kernel[rows.astype(int), columns.astype(int)] = 1
    return cv2.filter2D(image, -1, kernel / kernel.sum())  # type: ignore[return-value]


def random_square(image: Image, size: int, rng: Generator) -> Image:
    """Cut a random square out of an image (H, W, 3) and resize it to `size` pixels.

    Its side is between half of the image's shorter side and the whole.
    """
    height, width = image.shape[:2]
    side = rng.uniform(0.5, 1.0) * min(height, width)
    centre = (rng.uniform(side / 2, width - side / 2), rng.uniform(side / 2, height - side / 2))
    return Crop.square(centre, side, size).image(image, 0)


def beside(box_crop_xyxy: Box, other_crop_xyxy: Box, crop: Crop, rng: Generator) -> Crop:
    """Move a crop with another object in its middle, so that this object is near the target.

    The distance of their middles is 0.5 to 1.33 of that at which their boxes touch.
    """
    corners_crop_xy = np.reshape([box_crop_xyxy, other_crop_xyxy], (2, 2, 2))  # box, corner, axis
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.33)
    direction = np.array([np.cos(angle), np.sin(angle)])
    # how far apart along the direction their boxes touch
    sizes = np.ptp(corners_crop_xy, axis=1)
    touching = sizes.sum(axis=0) / 2 / np.maximum(np.abs(direction), 1e-9)
    place = corners_crop_xy[0].mean(axis=0) + distance * touching.min() * direction
    move = place - crop.size / 2
    return Crop(np.hstack([crop.matrix[:, :2], (crop.matrix[:, 2] + move)[:, None]]), crop.size)


def move_object(
    image: Image, mask: NDArray[np.bool_], shift_xy: NDArray[np.float64]
) -> tuple[Image, NDArray[np.bool_]]:
    """Move an object over its own background, by whole pixels; its old place is filled from the
    pixels around it. Return the image (H, W, 3) and the object's new mask (H, W)."""
    opencv: Any = cv2  # its type stubs know neither uint8 results nor masks
    size, ones = mask.shape[::-1], mask.astype(np.uint8)
    small = [max(round(side * FILLED_SIDE / max(size)), 1) for side in size]
    hole = opencv.resize(ones.astype(np.float32), small, interpolation=cv2.INTER_AREA) > 0
    hole = opencv.dilate(hole.astype(np.uint8), np.ones((3, 3)))
    filled = opencv.resize(image, small, interpolation=cv2.INTER_AREA)
    filled = opencv.resize(opencv.inpaint(filled, hole, 3, cv2.INPAINT_TELEA), size)
    # the rim of the hole shows the object's edge, so it is filled too
    background = replace_background(filled, opencv.dilate(ones, np.ones((7, 7))) > 0, image)
    move = np.hstack([np.eye(2), np.rint(shift_xy)[:, None]])
    moved = opencv.warpAffine(ones, move, size) > 0
    return replace_background(opencv.warpAffine(image, move, size), moved, background), moved


def replace_background(image: Image, mask: NDArray[np.bool_], background: Image) -> Image:
    """Keep the object of a mask (H, W), and show another image, (H, W, 3) like the first, around
    it; the edge is two pixels soft."""
    soft = cv2.GaussianBlur(mask.astype(np.float32), (5, 5), 1.0)[..., None]
    return (image * soft + background * (1 - soft)).astype(np.uint8)
