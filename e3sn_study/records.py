"""The files of record of a study, and how scores are averaged: objects, then seeds; intervals over sequences.

Everything here reads ``results/``, the folder a study leaves in ``reports/PROFILE``, and nothing else.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from numpy.typing import ArrayLike

from e3sn_lib.errors import InputError
from e3sn_lib.metrics.scoring import SUMMARY_COLUMNS

REFERENCE = Path(__file__).parent / "reference"
"""What others published, and the report's own texts."""
STATISTICS = SUMMARY_COLUMNS
MEANS = ("J-Mean", "F-Mean")
VARIANTS = {"siammask": "SiamMask", "e3sn-s": "E3SN only S", "e3sn": "E3SN"}
"""Variants by the paper's names, in the order of its tables."""
MODEL = "mask"
"""Method name of the model itself, at its own threshold."""
BENCHMARKS = {"davis2016": "DAVIS-2016", "davis2017": "DAVIS-2017"}
RESAMPLES = 10_000
VARIANT_COSTS = "variant_costs.csv"
TRAINING_SPEED = "training_speed.csv"
"""What ``e3sn bench train`` leaves."""
TRACKING_SPEED = "tracking_speed.csv"
"""What ``e3sn bench track`` leaves."""
CHOICE_SETTINGS = ("size_lr", "window_influence", "penalty_k", "mask_threshold")
"""Settings of inference that are chosen on held-out training sequences."""


RUN_KEYS = ("run", "variant", "seed", "pairs", "seconds", "peak_memory_mb")
"""Without these a record is no record of a run."""
NOT_RUN = "not run"
NONE = "–"
"""In a cell to which nothing can belong."""


def number(value: float, signed: bool = False, decimals: int = 1) -> str:
    """A value for display; never a negative zero."""
    rounded = round(value, decimals) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''},.{decimals}f}"


def percent(share: float) -> str:
    """A share for display, in whole percent."""
    return f"{number(100 * share, decimals=0)} %"


def signed(values: Iterable[float]) -> str:
    """Differences for display: ``+4.9 -0.3``."""
    return " ".join(number(value, signed=True) for value in values)


class Interval(NamedTuple):
    """A mean with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float

    def text(self, signed: bool = False) -> str:
        """``51.4 (45.0 to 57.9)``."""
        return f"{number(self.mean, signed)} ({number(self.low, signed)} to {number(self.high, signed)})"


def bootstrap_interval(values: ArrayLike, weights: ArrayLike | None = None, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean of `values`, one per sequence, and the percentile interval of its bootstrap over sequences.

    Args:
        values: (N,) finite numbers.
        weights: (N,) objects of each sequence, where the mean is over objects; equal ones without.
        seed: of the resampling.
        resamples: how often N sequences are drawn with replacement.

    Raises:
        InputError: there are no values, or one is not finite.
    """
    x = np.asarray(values, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    if x.size == 0 or not np.isfinite(x).all():
        raise InputError("an interval needs at least one value, and finite ones")
    drawn = np.random.default_rng(seed).integers(x.size, size=(resamples, x.size))
    means = (x * w)[drawn].sum(axis=1) / w[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float((x * w).sum() / w.sum()), float(low), float(high))


def paired_difference(a: pd.Series, b: pd.Series, weights: pd.Series | None = None, seed: int = 0) -> Interval:
    """Mean of ``a - b`` over the sequences both are indexed by, with its bootstrap interval.

    Raises:
        InputError: they are not of the same sequences.
    """
    if set(a.index) != set(b.index):
        odd = sorted(set(a.index) ^ set(b.index))
        raise InputError(f"two runs were scored on different sequences ({odd[0]}, ...); evaluate both on the same ones")
    return bootstrap_interval(a - b.loc[a.index], None if weights is None else weights.loc[a.index], seed)


@dataclass(frozen=True)
class Measured:
    """One method on one benchmark over all its runs, in percent."""

    objects: pd.DataFrame
    """Columns seed, sequence, object and `STATISTICS`."""

    @property
    def seeds(self) -> int:
        return int(self.objects["seed"].nunique())

    def by_seed(self, statistic: str) -> pd.Series:
        """Mean over objects, one value per seed."""
        return self.objects.groupby("seed")[statistic].mean()

    def value(self, statistic: str) -> float:
        """Mean over seeds."""
        return float(self.by_seed(statistic).mean())

    def spread(self, statistic: str) -> float:
        """Sample standard deviation over seeds; NaN for a single one."""
        return float(self.by_seed(statistic).std())

    def by_sequence(self, statistic: str) -> pd.Series:
        """Mean over objects and seeds, one value per sequence."""
        return self.objects.groupby("sequence")[statistic].mean()

    @property
    def weights(self) -> pd.Series:
        """Objects of each sequence."""
        return self.objects.groupby("sequence")["object"].nunique()

    def interval(self, statistic: str) -> Interval:
        return bootstrap_interval(self.by_sequence(statistic), self.weights)

    def minus(self, other: Measured, statistic: str) -> Interval:
        """Paired difference over the sequences."""
        return paired_difference(self.by_sequence(statistic), other.by_sequence(statistic), self.weights)

    def minus_by_seed(self, other: Measured, statistic: str) -> pd.Series:
        """Differences of the means, one for each seed that both have."""
        return (self.by_seed(statistic) - other.by_seed(statistic)).dropna()


@functools.cache
def reference(name: str) -> Any:
    """A YAML file of ``e3sn_study/reference``."""
    return yaml.safe_load((REFERENCE / f"{name}.yaml").read_text())


def read_runs(results: Path) -> pd.DataFrame:
    """One row per training run: the keys of ``runs/RUN.json``, those of its environment, and ``settings``, its overrides as text.

    Where a variant was trained twice with the same seed and settings, the later run is kept; ``attrs["left_out"]`` names the
    others.

    Raises:
        InputError: a file is not JSON or lacks a key.
    """
    records = []
    for path in sorted((results / "runs").glob("*.json")):
        try:
            content = json.loads(path.read_text())
            record = content.get("environment", {}) | content
            _ = [record[key] for key in RUN_KEYS]
            settings = " ".join(sorted(each.replace(" ", "") for each in record["overrides"]))
            known = {"date": "", "profile": "", "title": "", "data": [], "machine": record.get("cpu", "unknown")} | record
            records.append(known | {"settings": settings})
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is no record of a run ({error!r}); make it again with e3sn reproduce") from error
    if not records:
        return pd.DataFrame(columns=[*RUN_KEYS, "settings", "profile", "title", "data", "machine"])
    table = pd.DataFrame(records).sort_values(["date", "run"])
    repeated = table.duplicated(["variant", "seed", "settings"], keep="last")
    order = table["variant"].map({name: place for place, name in enumerate(VARIANTS)})
    kept = table[~repeated].assign(order=order).sort_values(["settings", "order", "seed"]).drop(columns="order")
    kept = kept.reset_index(drop=True)
    kept.attrs["left_out"] = sorted(table.loc[repeated, "run"])
    return kept


def read_scores(results: Path, benchmark: str) -> pd.DataFrame:
    """Scores per object of every run and baseline of a benchmark, in percent: run, variant, seed, method, sequence, ..."""
    files = [path for path in sorted((results / benchmark).glob("*.csv")) if not path.stem.endswith("_speed")]
    tables = [table for table in map(pd.read_csv, files) if "J-Mean" in table]
    if not tables:
        return pd.DataFrame(columns=["run", "variant", "seed", "method", "sequence", "object", *STATISTICS, "frames"])
    scores = pd.concat([table.astype({"run": object, "variant": object}) for table in tables], ignore_index=True)
    scores = scores.fillna({"run": "", "variant": "", "seed": 0}).astype({"seed": int})
    scores[list(STATISTICS)] *= 100
    return scores


def read_speed(results: Path, benchmark: str, runs: Iterable[str]) -> pd.DataFrame:
    """Timing per sequence of some runs, with ``fps``: object-frames per second as the paper counts them, reading excluded."""
    files = [results / benchmark / f"{run}_speed.csv" for run in runs]
    tables = [pd.read_csv(path) for path in files if path.is_file()]
    if not tables:
        return pd.DataFrame(columns=["run", "sequence", "frames", "objects", "seconds_reading", "seconds_tracking", "fps"])
    speed = pd.concat(tables, ignore_index=True)
    return speed.assign(fps=(speed["frames"] - 1) * speed["objects"] / speed["seconds_tracking"])


def read_variant_costs(results: Path) -> pd.DataFrame:
    """What training and tracking cost the networks that are compared, taking turns: the table of `bench.variant_costs`."""
    path = results / VARIANT_COSTS
    return pd.read_csv(path, keep_default_na=False) if path.is_file() else pd.DataFrame(columns=["variant", "part"])


def training_shares(costs: pd.DataFrame, new: str, old: str) -> tuple[float, float]:
    """Training time of one network as a share of another's.

    Returns:
        The share if both see equally many pairs in all, and if the first stage of `old` sees as many as `new` in all, so that
        its further stages come on top.
    """
    parts = {variant: costs[(costs["variant"] == variant) & (costs["part"] == "training")] for variant in (new, old)}
    per_pair = {variant: float((part["share"] * part["seconds"]).sum()) for variant, part in parts.items()}
    first = parts[old][parts[old]["stage"] == parts[old]["stage"].iloc[0]]
    equal = per_pair[new] / per_pair[old]
    return equal, equal * float(first["share"].sum())


def speed_share(costs: pd.DataFrame, new: str, old: str) -> float:
    """Tracking speed of one network as a share of another's."""
    seconds = costs[costs["part"] == "tracking"].set_index("variant")["seconds"]
    return float(seconds[old] / seconds[new])


def read_choices(results: Path) -> dict[str, pd.DataFrame]:
    """What was scored on held-out training sequences to choose settings of inference, by run: the tables of `choices.sweep`."""
    return {path.stem: pd.read_csv(path) for path in sorted((results / "choices").glob("*.csv"))}


def mean_choices(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over objects by settings, in the order they were tried: `CHOICE_SETTINGS`, J-Mean, F-Mean, J&F (their mean)."""
    means = scores.groupby(list(CHOICE_SETTINGS), sort=False)[list(MEANS)].mean().reset_index()
    return means.assign(**{"J&F": means[list(MEANS)].mean(axis=1)})


def best_choice(scores: pd.DataFrame) -> dict[str, float]:
    """The row of `mean_choices` with the largest J&F, the first of equals."""
    means = mean_choices(scores)
    return {str(name): float(value) for name, value in means.loc[means["J&F"].idxmax()].items()}


def read_lacking(results: Path, benchmark: str) -> dict[str, str]:
    """Baselines that could not be run, with what they need."""
    path = results / benchmark / "baselines_not_run.csv"
    return pd.read_csv(path).set_index("method")["reason"].to_dict() if path.is_file() else {}


def measure(scores: pd.DataFrame, runs: Iterable[str] = ("",), method: str = MODEL) -> Measured | None:
    """A method's scores over some runs, None if there are none; baselines belong to the run "" """
    part = scores[scores["run"].isin(list(runs)) & (scores["method"] == method)]
    return Measured(part[["seed", "sequence", "object", *STATISTICS]]) if len(part) else None


def main_runs(runs: pd.DataFrame, variant: str, settings: str = "") -> list[str]:
    """Names of a variant's runs, one per seed, with the profile's own settings unless others are given."""
    return list(runs.loc[(runs["variant"] == variant) & (runs["settings"] == settings), "run"])


def comparable_settings(runs: pd.DataFrame, *variants: str) -> str:
    """Settings under which all `variants` were trained: the profile's own, else those of the largest budget that change fewest."""
    groups = {str(name): group for name, group in runs.groupby("settings")}
    shared = [name for name, group in groups.items() if set(variants) <= set(group["variant"])]
    return min(shared, key=lambda name: (name != "", -groups[name]["pairs"].max(), len(name.split())), default="")


def frozen_backbone(settings: str) -> bool:
    """Whether runs with these settings never train their backbone, though the profile does."""
    return "train.unfreeze_at=1" in settings.split()


def compared_runs(runs: pd.DataFrame, *variants: str) -> dict[str, list[str]]:
    """Names of the runs of each variant under `comparable_settings`."""
    settings = comparable_settings(runs, *variants)
    return {variant: main_runs(runs, variant, settings) for variant in variants}


def is_synthetic(results: Path) -> bool:
    """Whether any run was trained on procedural data, or says so in its title."""
    runs = read_runs(results)
    names = [each["name"] for data in runs["data"] for each in data]
    return any(name.startswith("synthetic") for name in names) or any("synthetic" in str(title) for title in runs["title"])


def scope(results: Path, benchmark: str) -> str:
    """How much of a benchmark's validation set was scored: "4 of 20 sequences", or "" if nothing was."""
    names = set(read_scores(results, benchmark)["sequence"])
    official = set(reference("val_sequences")[benchmark])
    if not names:
        return ""
    if names <= official:
        return f"all {len(official)} sequences" if names == official else f"{len(names)} of {len(official)} sequences"
    kind = "synthetic" if is_synthetic(results) else "other"
    return f"{len(names)} {kind} sequences instead of the {len(official)}"


def whole_set(results: Path, benchmark: str) -> bool:
    """Whether a benchmark's validation set, all of it and nothing else, was scored."""
    return scope(results, benchmark).startswith("all ")


def reason_not_run(results: Path, benchmark: str) -> str:
    """Why a benchmark was not run, from ``not_run.txt``; "" if that is not on record."""
    path = results / benchmark / "not_run.txt"
    return without_folders(path.read_text().strip()) if path.is_file() else ""


def without_folders(text: str) -> str:
    """Absolute paths cut to their last part: whose machine it was is nobody's concern."""
    return re.sub(r"(?<![\w:/.])/(?:[^\s;,/]+/)+", ".../", text)
