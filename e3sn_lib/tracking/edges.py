"""Fit the edges of soft masks to the colours of the frame (ours; the paper has no such step).

A mask of the network has 127 x 127 pixels, so its edges are coarse. Colours say more about single
pixels. First comes Bayes' rule: the network's probabilities are the prior, and the likelihood comes
from the colours inside and outside the masks of this frame and earlier ones. Then a guided filter
(He, Sun and Tang, 2013) moves edges to where the colours change. It makes the mask a linear
function of the colours around each pixel. The function is found in a smaller image and used in the
whole one (He and Sun, 2015).
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from e3sn_lib.geometry import Floats, Image, Patch
from e3sn_lib.tracking import confidence

Array = NDArray[Any]

LARGEST_SIDE = 96
"""Pixels of the larger side of the smaller image."""
RADIUS = 0.035
"""The function of a pixel is fitted to a square around it. This is half the side of the square, as
a share of the square root of the image's area."""
VARIANCE = 1e-5
"""Colours, 0 to 1, that vary much less count as equal."""
CERTAIN = 0.002
"""A prior is at least this far from 0 and from 1, so colours can correct any pixel."""
EVIDENCE = 0.75
"""How much the colour of a pixel counts. In Bayes' rule it is 1; here it is less, because pixels
beside each other have similar colours."""
KEPT = 0.95
"""Share of the known colours that stays in each frame; the rest comes from the frame."""


def fit_to_colours(
    frame: Image, patch: Patch, threshold: float, known: Floats | None = None
) -> tuple[Patch, Floats | None]:
    """Return a patch whose mask has edges that follow the colours of its frame, (H, W, 3) RGB.

    Return also the `colour_histograms` that were used, (2, 4096); of an empty patch, `known`. The
    next frame needs them as `known`. Colours decide which pixels exceed the threshold, 0 to 1; the
    others become 0. Where two objects overlap, they may have the same colours. So above the
    threshold the order of the network's probabilities is kept.
    """
    if patch.soft.size == 0:
        return patch, known
    image, (height, width) = frame[patch.rows, patch.columns], patch.soft.shape
    shrink = min(1, LARGEST_SIDE / max(height, width))
    size = max(round(width * shrink), 1), max(round(height * shrink), 1)
    small, prior = (_resized(each, size, cv2.INTER_AREA) for each in (image, patch.soft))
    prior = prior.clip(CERTAIN, 1 - CERTAIN)
    colours = confidence.colour_histograms(small, prior)
    if known is not None:
        colours = KEPT * known + (1 - KEPT) * colours
    share = confidence.likeness(small, confidence.colour_shares(colours))
    odds = prior / (1 - prior) * (share / (1 - share)) ** EVIDENCE
    linear = _linear(small.astype(np.float32) / 255, (odds / (1 + odds)).astype(np.float32))
    slopes, offsets = (_resized(each, (width, height), cv2.INTER_LINEAR) for each in linear)
    fitted = offsets + _dot(slopes, image.astype(np.float32) / 255)
    above = threshold + (1 - threshold) * patch.soft.clip(CERTAIN, 1)
    return patch._replace(soft=np.where(fitted > threshold, above, 0)), colours


def _resized(values: Array, size: tuple[int, int], how: int) -> Array:
    return np.asarray(cv2.resize(values, size, interpolation=how))


def _linear(image: Array, soft: Array) -> tuple[Array, Array]:
    """Return slopes (H, W, 3) and offsets (H, W) that give a mask (H, W) from colours (H, W, 3)."""
    side = 2 * max(round(RADIUS * soft.size**0.5), 1) + 1

    def mean(values: Array) -> Array:
        return np.asarray(cv2.blur(values, (side, side)))

    colour, inside = mean(image), mean(soft)
    shared = mean(image * soft[..., None]) - colour * inside[..., None]
    rows, columns = np.triu_indices(3)
    pairs = image[..., rows] * image[..., columns]
    spread = np.dstack([mean(pairs[..., :3]), mean(pairs[..., 3:])])
    spread -= colour[..., rows] * colour[..., columns]
    # solve three equations for each pixel by Cramer's rule, which is faster than numpy's solver
    a, b, c, d, e, f = np.moveaxis(spread, -1, 0).astype(np.float64)  # the upper triangle
    a, d, f = a + VARIANCE, d + VARIANCE, f + VARIANCE
    first = np.stack([d * f - e * e, c * e - b * f, b * e - c * d])
    second = np.stack([first[1], a * f - c * c, b * c - a * e])
    third = np.stack([first[2], second[2], a * d - b * b])
    x, y, z = np.moveaxis(shared, -1, 0)
    solved = (first * x + second * y + third * z) / (a * first[0] + b * first[1] + c * first[2])
    slopes = np.moveaxis(solved, 0, -1).astype(np.float32)
    return mean(slopes), mean(inside - _dot(slopes, colour))


def _dot(one: Array, other: Array) -> Array:
    """Return the sums over colours, faster than by numpy."""
    return np.asarray(cv2.transform(one * other, np.ones((1, 3), np.float32)))
