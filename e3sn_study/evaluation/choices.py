"""Choose settings of inference on training sequences that no training has seen, never on val."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from e3sn_lib.config import TrackConfig
from e3sn_lib.data.types import Video
from e3sn_lib.tracking.tracker import Tracker
from e3sn_study.evaluation.benchmark import evaluate_tracker
from e3sn_study.records.schema import SCHEMAS, SETTINGS
from e3sn_study.records.store import digest, once

TRIED: dict[str, tuple[float, ...]] = {
    "size_lr": (0.3, 0.6, 1.0),
    "window_influence": (0.2, 0.4, 0.6),
    "penalty_k": (0.0, 0.04, 0.1, 0.2),
}
"""Values of each setting, in the order in which they are tried."""
TRIED_THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
"""Mask thresholds, all of which one tracking pass gives."""


def sweep(
    tracker: Tracker,
    sequences: list[Video],
    out: Path,
    grid: Mapping[str, tuple[float, ...]] = TRIED,
    thresholds: tuple[float, ...] = TRIED_THRESHOLDS,
) -> pd.DataFrame:
    """Score settings of inference one after the other, each with the best values found before.

    Each value is judged at its best threshold, by the mean of J and F. The tracker has the settings
    to start from, which win a tie. Its own threshold is tried beside `thresholds`. The folder `out`
    keeps finished passes.

    Return scores (0 to 1) of every pass, threshold and object, as ``SCHEMAS["choices"]`` has them.
    """
    passes: dict[TrackConfig, pd.DataFrame] = {}

    def track(config: TrackConfig) -> None:
        if config not in passes:
            passes[config] = _one_pass(Tracker(tracker.backend, config), sequences, out, thresholds)
            best = best_choice(passes[config])
            settings = ", ".join(f"{name} {best[name]:g}" for name in SETTINGS)
            print(f"{settings}: J {100 * best['J-Mean']:.1f}, F {100 * best['F-Mean']:.1f}")

    track(chosen := tracker.config)
    for name, values in grid.items():
        for value in values:
            changed: dict[str, Any] = {name: value}
            track(replace(chosen, **changed))
        chosen = max(passes, key=lambda config: best_choice(passes[config])["J&F"])
    return pd.concat(passes.values(), ignore_index=True)


def _one_pass(
    tracker: Tracker, sequences: list[Video], out: Path, thresholds: tuple[float, ...]
) -> pd.DataFrame:
    made_of = digest(tracker.backend.identity, tracker.config, thresholds, sequences)
    folder = out / made_of

    def compute() -> pd.DataFrame:
        scores, _ = evaluate_tracker(
            tracker, sequences, folder, extras=False, thresholds=thresholds, show=lambda _: None
        )
        shutil.rmtree(folder)
        tried = {name: getattr(tracker.config, name) for name in SETTINGS[:3]}
        columns = [*SETTINGS, "sequence", "object", "J-Mean", "F-Mean"]
        return scores.assign(**tried)[columns].sort_values("mask_threshold", kind="stable")

    return once(out / f"{made_of}.csv", SCHEMAS["choices"], made_of, compute)


def mean_choices(scores: pd.DataFrame) -> pd.DataFrame:
    """Return J-Mean, F-Mean and their mean J&F over objects by settings, in the order of trial."""
    means = scores.groupby(list(SETTINGS), sort=False)[["J-Mean", "F-Mean"]].mean().reset_index()
    return means.assign(**{"J&F": means[["J-Mean", "F-Mean"]].mean(axis=1)})


def best_choice(scores: pd.DataFrame) -> dict[str, float]:
    """Return the row of `mean_choices` with the largest J&F, the first of equals."""
    return mean_choices(scores).nlargest(1, "J&F").iloc[0].to_dict()


def overrides_of(scores: pd.DataFrame) -> list[str]:
    """Return the best settings of a sweep as ``key=value``, for ``--set`` or a profile."""
    best = best_choice(scores)
    return [f"track.{name}={best[name]:g}" for name in SETTINGS]
