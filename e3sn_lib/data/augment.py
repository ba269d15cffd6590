"""Random changes of a training pair; all geometry is one `Crop`, so image, mask and box stay registered."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from e3sn_lib.config import AugmentConfig
from e3sn_lib.geometry import TEMPLATE_SIZE, Box, Crop, context_side

GREY = np.array([0.299, 0.587, 0.114])
Image = NDArray[np.uint8]


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
    """A context crop; the object moves by up to `shift` crop pixels, x and y are scaled apart by `scale`, both by `zoom`."""
    x1, y1, x2, y2 = box_frame_xyxy
    base = TEMPLATE_SIZE / context_side(x2 - x1, y2 - y1)
    scale_x, scale_y = base * rng.uniform(1 - scale, 1 + scale, 2) * (1 + zoom) ** rng.uniform(-1, 1)
    move_x, move_y = rng.uniform(-shift, shift, 2)
    return Crop.similarity(
        ((x1 + x2) / 2, (y1 + y2) / 2), (size / 2 + move_x, size / 2 + move_y), (scale_x, scale_y), size, degrees, flip
    )


def colour_matrix(strength: float, rng: Generator) -> NDArray[np.float32]:
    """(3, 4) affine map of RGB: random saturation, contrast and brightness in one matrix."""
    saturation, contrast = rng.uniform(1 - strength, 1 + strength, 2)
    brightness = rng.uniform(-strength, strength) * 128
    tint = rng.uniform(1 - strength / 4, 1 + strength / 4, 3)
    linear = contrast * tint[:, None] * (saturation * np.eye(3) + (1 - saturation) * GREY[None])
    offset = brightness + 128 * (1 - contrast)
    return np.hstack([linear, np.full((3, 1), offset)]).astype(np.float32)


def change_colour(image: Image, config: AugmentConfig, rng: Generator) -> Image:
    """Random colour (H, W, 3), saturating at 0 and 255."""
    return cv2.transform(image, colour_matrix(config.colour, rng)) if config.colour > 0 else image  # type: ignore[return-value]


def to_grey(image: Image) -> Image:
    """Grey values in all three channels."""
    return cv2.transform(image, np.tile(GREY, (3, 1)).astype(np.float32))  # type: ignore[return-value]


def motion_blur(image: Image, rng: Generator) -> Image:
    """Blur along a random direction over a random length up to a tenth of the crop."""
    length = int(rng.integers(3, max(image.shape[0] // 10, 4)))
    angle = rng.uniform(0, np.pi)
    kernel = np.zeros((length, length), np.float32)
    middle, reach = (length - 1) / 2, (length - 1) / 2
    steps = np.linspace(-reach, reach, 4 * length)
    rows, columns = np.rint(middle + steps * np.sin(angle)), np.rint(middle + steps * np.cos(angle))
    kernel[rows.astype(int), columns.astype(int)] = 1
    return cv2.filter2D(image, -1, kernel / kernel.sum())  # type: ignore[return-value]


def random_square(image: Image, size: int, rng: Generator) -> Image:
    """A random square inside an image (H, W, 3), at least half as wide as the image, resized to `size` pixels."""
    height, width = image.shape[:2]
    side = rng.uniform(0.5, 1.0) * min(height, width)
    centre = (rng.uniform(side / 2, width - side / 2), rng.uniform(side / 2, height - side / 2))
    return Crop.square(centre, side, size).image(image, 0)


def beside(box_crop_xyxy: Box, other_frame_xyxy: Box, config: AugmentConfig, size: int, rng: Generator, flip: bool = False) -> Crop:
    """Return a crop in which another object stands near the target: from half hidden to a gap of a third of their sizes.

    Args:
        box_crop_xyxy: the target in the search crop.
        other_frame_xyxy: the other object in its own frame; it is scaled as a target is.
        config: its ``search_scale`` and ``search_zoom``.
        size: of the search crop in pixels.
        rng: of the pair.
        flip: whether the other object is flipped.
    """
    crop = random_crop(other_frame_xyxy, size, 0.0, config.search_scale, rng, zoom=config.search_zoom, flip=flip)
    sizes = [(x2 - x1, y2 - y1) for x1, y1, x2, y2 in (box_crop_xyxy, crop.box_to_crop(other_frame_xyxy))]
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.33)
    direction = np.array([np.cos(angle), np.sin(angle)])
    touching = np.sum(sizes, axis=0) / 2 / np.maximum(np.abs(direction), 1e-9)  # where their boxes touch, along the direction
    x1, y1, x2, y2 = box_crop_xyxy
    move = ((x1 + x2) / 2, (y1 + y2) / 2) + distance * touching.min() * direction - size / 2
    return Crop(np.hstack([crop.matrix[:, :2], (crop.matrix[:, 2] + move)[:, None]]), size)


def replace_background(image: Image, mask: NDArray[np.bool_], background: Image) -> Image:
    """Keep the object and show another image around it, with an edge two pixels soft."""
    soft = cv2.GaussianBlur(mask.astype(np.float32), (5, 5), 1.0)[..., None]
    return (image * soft + background * (1 - soft)).astype(np.uint8)
