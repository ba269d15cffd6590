"""Tell whether a mask shows its object: predict its region similarity J, and compare colours.

The class score often stays high after a tracker has drifted to something else. The mask tells more:
a wrong mask is less certain, and its colours often differ from those of the first mask. A logistic
regression on four features predicts J. ``shipped/confidence.json`` holds its numbers and where they
come from. ``e3sn bench confidence`` fits them. They belong to the shipped model: for other models
the prediction ranks frames, but its values may be off.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from e3sn_lib.geometry import Floats, Image, Patch, SoftMask

TABLE = Path(__file__).parent / "shipped" / "confidence.json"
FEATURES = ("score", "expected_iou", "rim", "colour")
"""Columns of `mask_features`."""
LARGEST_LOGIT = 10.0
"""Logits of the class score are limited to this; larger ones tell nothing more."""
COLOUR_BINS = 16
"""Along each axis of a table of colours: a and b of CIELAB, or R, G and B."""
LARGEST_SIDE = 128
"""Of larger windows, only every n-th row and column gives colours."""
RARE = 1e-4
"""A share of pixels that is much smaller says nothing about a colour."""


def mask_features(scores: Floats, soft: SoftMask, threshold: float, colour: Floats) -> Floats:
    """Return the features of N masks from which `predict_j` predicts J.

    Args:
        scores: (N,) class scores, 0 to 1.
        soft: (N, H, W) object probabilities in the chosen windows.
        threshold: a pixel above it belongs to the mask.
        colour: (N,) `colour_agreement` of the masks and the first ones.

    Returns:
        (N, 4): the logit of the score, -10 to 10; the expected intersection over the expected union
        of the mask and one drawn at random by the probabilities, 0 to 1; the share of the mask's
        pixels that lie on its rim, since thin masks are less certain in any case; `colour` as it
        is.
    """
    tiny = np.exp(-LARGEST_LOGIT) / 2
    clipped = scores.clip(tiny, 1 - tiny)
    logits = np.log(clipped / (1 - clipped)).clip(-LARGEST_LOGIT, LARGEST_LOGIT)
    about_masks = np.array([_about_mask(each, threshold) for each in soft]).reshape(-1, 2)
    return np.column_stack([logits, about_masks, colour])


def mask_colours(frame: Image, patches: Sequence[Patch], threshold: float) -> Floats:
    """Return the histograms of a frame's colours, (H, W, 3) RGB uint8, under N masks, (N, 256).

    A mask is where the probabilities in a patch exceed the threshold. Each histogram has the sum 1;
    that of an empty mask is 0. A colour is a and b of CIELAB. Lightness is left out: it changes
    with light and shadow.
    """
    histograms = np.zeros((len(patches), COLOUR_BINS**2))
    for histogram, (soft, rows, columns) in zip(histograms, patches, strict=True):
        every = slice(None, None, 1 + max(soft.shape) // LARGEST_SIDE)
        pixels = frame[rows, columns][every, every][soft[every, every] > threshold]
        if len(pixels):
            bins = _bins(cv2.cvtColor(pixels[None], cv2.COLOR_RGB2LAB)[0, :, 1:])
            histogram[:] = np.bincount(bins, minlength=len(histogram)) / len(bins)
    return histograms


def colour_agreement(colours: Floats, others: Floats) -> Floats:
    """Return the Bhattacharyya coefficients of histograms (N, 256): 1 if equal, 0 if nothing is
    in common; (N,)."""
    return np.asarray(np.sqrt(colours * others).sum(axis=1))


def colour_histograms(crop: Image, soft: SoftMask) -> Floats:
    """Return the colours of an object and of its surroundings, (2, 4096); the sum of each is 1.

    The mask (H, W) says how much of each pixel of a crop (H, W, 3) is the object, 0 to 1. If all or
    nothing is the object, one of the two is 0.
    """
    bins, size = _bins(crop).ravel(), COLOUR_BINS**3
    counts = [np.bincount(bins, each.ravel(), size) for each in (soft, 1 - soft)]
    return np.array([count / max(count.sum(), RARE) for count in counts])


def colour_shares(histograms: Floats) -> Floats:
    """Return how much of each colour belongs to an object, 0 to 1, (4096,).

    The `colour_histograms` of the object and its surroundings have the same weight, whatever their
    sizes (as in Staple, Bertinetto et al. 2016). The share of a colour that is rare in both is
    about 1/2.
    """
    own, others = histograms + RARE
    return np.asarray(own / (own + others))


def likeness(crop: Image, shares: Floats) -> Floats:
    """Return the `colour_shares` of each pixel of a crop (S, S, 3), (S, S)."""
    return np.asarray(shares[_bins(crop)])


def _bins(colours: NDArray[Any]) -> NDArray[np.int64]:
    """Return the places of colours (..., C) uint8 in a flat table of C axes, (...)."""
    levels = np.moveaxis(colours // (256 // COLOUR_BINS), -1, 0)
    bins = levels[0].astype(np.int64)
    for each in levels[1:]:
        bins = bins * COLOUR_BINS + each
    return bins


def _about_mask(soft: SoftMask, threshold: float) -> tuple[float, float]:
    mask = (soft > threshold).astype(np.uint8)
    area = cv2.countNonZero(mask)
    if area == 0:
        return 0.0, 1.0
    inside = float((soft * mask).sum())
    inner = cv2.countNonZero(cv2.erode(mask, np.ones((3, 3), np.uint8)))
    return inside / (area + float(soft.sum()) - inside), 1 - inner / area


def predict_j(features: Floats, table: dict[str, Any] | None = None) -> Floats:
    """Return the predicted J (N,), 0 to 1, from `mask_features` (N, 4).

    The table has the numbers of a fit; None: those that come with the package.

    A class score below one half says that the object is not there. Training sequences hardly ever
    show this case. So below one half the prediction falls to 0 with the score.
    """
    table = table or shipped_table()
    scores = 1 / (1 + np.exp(-features[:, 0]))
    fitted = 1 / (1 + np.exp(-(features @ table["weights"] + table["bias"])))
    return np.asarray(fitted * np.minimum(2 * scores, 1))


@functools.cache
def shipped_table() -> dict[str, Any]:
    """Read the fit that comes with the package: its numbers, their origin, and ``lost_below``."""
    return json.loads(TABLE.read_text())
