"""Fit the prediction of J on training sequences, and test it on others.

No number is chosen on the sequences that it is tested on.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from e3sn_lib.data.types import Video
from e3sn_lib.geometry import Floats, box_xywh
from e3sn_lib.metrics.measures import region_similarity
from e3sn_lib.tracking.confidence import FEATURES, predict_j
from e3sn_lib.tracking.tracker import Tracker
from e3sn_study.evaluation.baselines import boxes_of

RIDGE = 1e-3
"""Weight of the squared coefficients of standardised features."""
GOOD = 0.5
"""A mask of this J or more shows that the object is not lost."""
FALSE_ALARMS = 0.01
"""Share of good frames that may count as lost."""
LEVELS = (0.1, 0.5)
"""Values of J below which a prediction should find frames."""


def fit_and_test(
    tracker: Tracker, train: list[Video], val: list[Video]
) -> tuple[pd.DataFrame, dict[str, Any], dict[str, dict[str, float]]]:
    """Fit on training sequences, forward and `fast_backwards`, and test on others.

    Return the table of `measure` with ``split`` (train, backwards, val) and ``predicted_j``, which
    is `cross_validated` where it was fitted; what `fit` found, with ``lost_below`` and ``origin``;
    and the `agreement` of each split.
    """
    plays = {"train": train, "backwards": map(fast_backwards, train), "val": val}
    measured = [measure(tracker, each).assign(split=split) for split, each in plays.items()]
    table = pd.concat(measured, ignore_index=True)
    fitted = (table["split"] != "val").to_numpy()
    numbers = fit(table[fitted])
    table["predicted_j"] = predict_j(table[[*FEATURES]].to_numpy(), numbers)
    table.loc[fitted, "predicted_j"] = cross_validated(table[fitted])
    both = table.set_index("split")[["j", "predicted_j"]]
    found = {split: agreement(*both.loc[[split]].to_numpy().T) for split in plays}
    numbers["lost_below"] = choose_lost_below(*both.loc[["train"]].to_numpy().T)
    numbers["origin"] = {
        "model": tracker.backend.identity,
        "data": f"DAVIS-2016 train, {len(train)} sequences, {fitted.sum()} masks of plays forwards "
        "and backwards",
        "cross_validated": found["train"],
    }
    return table, numbers, found


def measure(tracker: Tracker, sequences: Iterable[Video]) -> pd.DataFrame:
    """Track sequences, and return features and J of each object in each frame after the first.

    The columns are sequence, object, frame, j, and those of `FEATURES`.
    """
    rows = []
    for sequence in sequences:
        boxes = boxes_of(sequence.mask(0), sequence.object_ids())
        frames = (sequence.frame(index) for index in range(len(sequence)))
        results = tracker.run(frames, [box_xywh(box) for box in boxes.values()])
        next(results)  # of the frame whose boxes are given
        for index, result in enumerate(results, 1):
            truth = sequence.mask(index)
            for place, (number, features) in enumerate(zip(boxes, result.features, strict=True)):
                j = region_similarity(result.ids == place + 1, truth == number)
                rows.append((sequence.name, number, index, j, *features.tolist()))
        mean = np.mean([row[3] for row in rows if row[0] == sequence.name])
        print(f"{sequence.name}: {len(sequence)} frames, J {100 * mean:.1f}")
    return pd.DataFrame(rows, columns=["sequence", "object", "frame", "j", *FEATURES])


def fast_backwards(sequence: Video) -> Video:
    """Return every third frame, from the last that shows an object back to the first.

    So played, sequences that a model was trained on fail more often, as new ones do.
    """
    last = next(each for each in reversed(range(len(sequence))) if sequence.mask(each).any())
    frames, masks = sequence.frame_paths[last::-3], sequence.mask_paths[last::-3]
    return replace(sequence, frame_paths=frames, mask_paths=masks)


def fit(table: pd.DataFrame) -> dict[str, Any]:
    """Fit the ``weights`` and the ``bias`` that `predict_j` takes.

    This is a logistic regression of J on the features by Newton's method, in which all sequences
    count the same, however long they are.
    """
    features, j = table[[*FEATURES]].to_numpy(), table["j"].to_numpy()
    counts = table.groupby("sequence")["j"].transform("size").to_numpy()
    share = 1 / (counts * table["sequence"].nunique())
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-9
    inputs = np.column_stack([np.ones(len(j)), (features - mean) / deviation])
    penalty = np.diag([0.0, *[RIDGE] * len(FEATURES)])
    weights = np.zeros(len(FEATURES) + 1)
    for _ in range(30):
        predicted = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (share * (predicted - j)) + penalty @ weights
        curve = (inputs.T * (share * predicted * (1 - predicted))) @ inputs + penalty
        weights = weights - np.linalg.solve(curve, slope)
    scaled = weights[1:] / deviation
    return {"weights": scaled.tolist(), "bias": float(weights[0] - mean @ scaled)}


def cross_validated(table: pd.DataFrame) -> Floats:
    """Return the J predicted for each row by a fit on all other sequences."""
    predicted = np.zeros(len(table))
    for name in table["sequence"].unique():
        here = (table["sequence"] == name).to_numpy()
        predicted[here] = predict_j(table.loc[here, [*FEATURES]].to_numpy(), fit(table[~here]))
    return predicted


def agreement(j: Floats, predicted: Floats) -> dict[str, float]:
    """Return how well predictions agree with J: Spearman's ``rank_correlation``, the areas under
    the ROC curves ``auc_0.1`` and ``auc_0.5`` of finding frames with a lower J than that (NaN if
    there are none), and the mean ``absolute_error``."""
    correlations = pd.DataFrame({"j": j, "predicted": predicted}).corr("spearman")
    areas = {f"auc_{level}": area_under_curve(j < level, -predicted) for level in LEVELS}
    error = float(np.abs(j - predicted).mean())
    return {"rank_correlation": correlations.iloc[0, 1], **areas, "absolute_error": error}


def area_under_curve(wanted: NDArray[np.bool_], values: Floats) -> float:
    """Return the probability that a wanted value exceeds another; ties count half, none is NaN."""
    count, others = int(wanted.sum()), int((~wanted).sum())
    if not count or not others:
        return float("nan")
    above = pd.Series(values).rank().to_numpy()[wanted].sum() - count * (count + 1) / 2
    return float(above / (count * others))


def choose_lost_below(j: Floats, predicted: Floats) -> float:
    """Return the highest of 0, 0.1, ... 0.9 below which few good frames are predicted."""
    good = predicted[j >= GOOD]
    below = [step / 10 for step in range(10)]
    return max(each for each in below if (good < each).sum() <= FALSE_ALARMS * len(good))
