"""The DAVIS measures: region similarity J, contour accuracy F, and their statistics over a video.

They follow the definitions of Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for
Video Object Segmentation" (CVPR 2016), and the DAVIS evaluation code.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class Statistics(NamedTuple):
    """What DAVIS reports of one object over a video."""

    mean: float
    recall: float
    """Share of the frames above 0.5."""
    decay: float
    """Mean of the first quarter minus mean of the last quarter."""


def region_similarity(prediction: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return J, the Jaccard index of two masks of one object; 1 if both are empty.

    Masks are (H, W), bool or integers of which all but 0 are the object. Raises ValueError if they
    differ in size, are not two-dimensional, hold no pixels, or are of another type.
    """
    prediction, truth = _checked(prediction, truth)
    union = np.count_nonzero(prediction | truth)
    return float(np.count_nonzero(prediction & truth) / union) if union else 1.0


def boundary_accuracy(
    prediction: NDArray[Any], truth: NDArray[Any], tolerance: float = 0.008
) -> float:
    """Return F, the harmonic mean of the precision and the recall of the boundary.

    It is 1 if neither mask has a boundary, and 0 if only one has. Masks and errors are those of
    `region_similarity`; a negative tolerance is a ValueError too.

    Args:
        tolerance: largest distance of two boundaries that match. Below 1 it is a share of the
            frame's diagonal, rounded up to whole pixels. From 1 on it is in pixels.
    """
    prediction, truth = _checked(prediction, truth)
    disk = _disk(boundary_radius(truth.shape, tolerance))
    # only the box of both and one pixel around it matters: a boundary lies on the object, or one
    # pixel left of it or above; one pixel right and below is needed, as `boundary_map` treats the
    # last column and row in another way
    x, y, width, height = cv2.boundingRect((prediction | truth).view(np.uint8))
    box = slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)
    found, wanted = boundary_map(prediction[box]), boundary_map(truth[box])
    found_pixels, wanted_pixels = np.count_nonzero(found), np.count_nonzero(wanted)
    if not found_pixels or not wanted_pixels:
        return float(found_pixels == wanted_pixels)
    near_found = cv2.dilate(found.view(np.uint8), disk).view(bool)
    near_wanted = cv2.dilate(wanted.view(np.uint8), disk).view(bool)
    precision = np.count_nonzero(found & near_wanted) / found_pixels
    recall = np.count_nonzero(wanted & near_found) / wanted_pixels
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def boundary_radius(shape: tuple[int, ...], tolerance: float = 0.008) -> float:
    """Return the `tolerance` of `boundary_accuracy` in pixels, for a frame of height and width;
    raises ValueError if it is negative."""
    if not tolerance >= 0:
        raise ValueError(f"the boundary tolerance must be 0 or more, got {tolerance}")
    return float(tolerance if tolerance >= 1 else np.ceil(tolerance * np.linalg.norm(shape)))


def boundary_map(mask: Mask) -> Mask:
    """Return the boundary of a mask (H, W) bool, one pixel wide.

    It holds the pixels that differ from their right, lower or lower right neighbour. The image
    border is no boundary: the last row has no lower neighbours, and the last column no right ones.
    """
    boundary = np.zeros(mask.shape, bool)
    boundary[:-1, :-1] = mask[:-1, :-1] ^ mask[1:, 1:]
    boundary[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    boundary[:-1] |= mask[:-1] ^ mask[1:]
    return boundary


def statistics(values: Sequence[float] | NDArray[np.floating[Any]]) -> Statistics:
    """Return mean, recall and decay of one object's J or F in the evaluated frames.

    Decay compares the first and the last quarter of the video; each includes both its end frames.
    The DAVIS Python code holds these ends in 8 bits and fails from 256 frames on. NaN is left out.
    Raises ValueError if there is no value at all.
    """
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or np.isnan(series).all():
        raise ValueError(f"statistics need a row of at least one value, got shape {series.shape}")
    ends = np.round(np.linspace(1, len(series), 5) + 1e-10).astype(int) - 1
    known = series[~np.isnan(series)]
    decay = _mean(series[: ends[1] + 1]) - _mean(series[ends[3] :])
    return Statistics(float(known.mean()), float((known > 0.5).mean()), decay)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _checked(prediction: NDArray[Any], truth: NDArray[Any]) -> tuple[Mask, Mask]:
    """Return two masks as bool, (H, W) and contiguous."""
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape:
        sizes = f"prediction {prediction.shape}, truth {truth.shape}"
        raise ValueError(f"the masks differ in size: {sizes}")
    if truth.ndim != 2 or not truth.size:
        raise ValueError(f"masks must be (height, width) with a pixel or more, got {truth.shape}")
    for mask in (prediction, truth):
        if mask.dtype.kind not in "bui":
            remedy = "compare soft masks with a threshold first"
            raise ValueError(f"masks must be bool or integer, got {mask.dtype}; {remedy}")
    return np.ascontiguousarray(prediction, bool), np.ascontiguousarray(truth, bool)


@lru_cache(maxsize=16)
def _disk(radius: float) -> NDArray[np.uint8]:
    offsets = np.arange(-int(radius), int(radius) + 1)
    return (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
