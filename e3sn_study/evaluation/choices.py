"""Settings of inference, chosen on training sequences that no training has seen, never on those of a benchmark."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from e3sn_lib.config import TrackConfig
from e3sn_lib.data.types import Video
from e3sn_lib.files import write_csv
from e3sn_lib.profiles.identity import config_hash
from e3sn_lib.tracking.tracker import Tracker
from e3sn_study.evaluation.benchmark import MODEL, at_threshold, evaluate_tracker
from e3sn_study.records import CHOICE_SETTINGS, best_choice

GRID: dict[str, tuple[float, ...]] = {
    "size_lr": (0.3, 0.6, 1.0),
    "window_influence": (0.2, 0.4, 0.6),
    "penalty_k": (0.0, 0.04, 0.1, 0.2),
}
"""Values of each setting, in the order in which they are tried."""
THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)


def sweep(
    tracker: Tracker,
    sequences: list[Video],
    out: Path,
    grid: Mapping[str, tuple[float, ...]] = GRID,
    thresholds: tuple[float, ...] = THRESHOLDS,
    show: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Score settings of inference, one after the other: each value with the others as they were found best so far.

    One tracking pass gives all thresholds, so each value is judged at its best one, by the mean of J and F. Passes are kept in
    `out` and not made again.

    Args:
        tracker: with the network and the settings to start from, which win a tie.
        sequences: to choose on.
        out: a folder for this network alone.
        grid: values by setting.
        thresholds: of the masks; the tracker's own is added.
        show: where progress lines go.

    Returns:
        Scores of every pass, threshold and object: `CHOICE_SETTINGS`, sequence, object, J-Mean, F-Mean (0 to 1).
    """
    start = tracker.config
    thresholds = tuple(sorted({*thresholds, start.mask_threshold}))
    passes: dict[TrackConfig, pd.DataFrame] = {}

    def track(config: TrackConfig) -> None:
        if config not in passes:
            passes[config] = _one_pass(Tracker(tracker.backend, config), sequences, out, thresholds)
            best = best_choice(passes[config])
            show(f"{_text(best)}: J {100 * best['J-Mean']:.1f}, F {100 * best['F-Mean']:.1f}")

    track(start)
    chosen = start
    for name, values in grid.items():
        for value in values:
            changed: dict[str, Any] = {name: value}
            track(replace(chosen, **changed))
        chosen = max(passes, key=lambda config: float(best_choice(passes[config])["J&F"]))
    return pd.concat(passes.values(), ignore_index=True)


def overrides_of(scores: pd.DataFrame) -> list[str]:
    """The best settings of a sweep as ``key=value``, for ``--set`` or a profile."""
    best = best_choice(scores)
    return [f"track.{name}={best[name]:g}" for name in CHOICE_SETTINGS]


def _one_pass(tracker: Tracker, sequences: list[Video], out: Path, thresholds: tuple[float, ...]) -> pd.DataFrame:
    config = dataclasses.asdict(tracker.config)
    names = [[sequence.name, len(sequence)] for sequence in sequences]
    folder = out / config_hash({"track": config, "sequences": names, "thresholds": list(thresholds)})
    kept = folder.with_suffix(".csv")
    if not kept.is_file():
        scores, _ = evaluate_tracker(tracker, sequences, folder, extras=False, thresholds=thresholds, show=lambda _: None)
        by_method = {at_threshold(each): each for each in thresholds}
        scores = scores[scores["method"] != MODEL].assign(**{name: config[name] for name in CHOICE_SETTINGS})
        scores["mask_threshold"] = scores["method"].map(by_method)
        write_csv(kept, scores[[*CHOICE_SETTINGS, "sequence", "object", "J-Mean", "F-Mean"]])
        shutil.rmtree(folder)
    return pd.read_csv(kept)


def _text(best: Mapping[Any, Any]) -> str:
    return ", ".join(f"{name} {best[name]:g}" for name in CHOICE_SETTINGS)
