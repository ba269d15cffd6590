"""How scores are averaged: over objects, then over seeds; intervals are over sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from e3sn_lib.errors import InputError

RESAMPLES = 10_000


class Interval(NamedTuple):
    """A mean with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(values: ArrayLike, weights: ArrayLike) -> Interval:
    """Return the mean of values and the percentile interval of its bootstrap.

    Args:
        values: (N,) finite numbers, one per sequence.
        weights: (N,) objects of each sequence, for a mean over objects.

    Raises:
        InputError: there are no values, or one is not finite.
    """
    x, w = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    if x.size == 0 or not np.isfinite(x).all():
        raise InputError("an interval needs at least one value, and finite ones")
    drawn = np.random.default_rng(0).integers(x.size, size=(RESAMPLES, x.size))
    means = (x * w)[drawn].sum(axis=1) / w[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float((x * w).sum() / w.sum()), float(low), float(high))


@dataclass(frozen=True)
class Measured:
    """One method on one benchmark over all its runs, in percent."""

    objects: pd.DataFrame
    """Columns seed, sequence, object and `STATISTICS`, a row for each object."""

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return int(self.objects["seed"].nunique())

    @property
    def weights(self) -> pd.Series:
        """Objects of each sequence."""
        return self.objects.groupby("sequence")["object"].nunique()

    def by_seed(self, statistic: str) -> pd.Series:
        """Return the mean over objects, one value per seed."""
        return self.objects.groupby("seed")[statistic].mean()

    def by_sequence(self, statistic: str) -> pd.Series:
        """Return the mean over objects and seeds, one value per sequence."""
        return self.objects.groupby("sequence")[statistic].mean()

    def value(self, statistic: str) -> float:
        """Return the mean over seeds."""
        return float(self.by_seed(statistic).mean())

    def spread(self, statistic: str) -> float:
        """Return the sample standard deviation over seeds; NaN for a single one."""
        return float(self.by_seed(statistic).std())

    def interval(self, statistic: str) -> Interval:
        """Return the mean over objects with its interval over sequences."""
        return bootstrap_interval(self.by_sequence(statistic), self.weights)

    def minus(self, other: Measured, statistic: str) -> Interval:
        """Return the paired difference over the sequences.

        Raises:
            InputError: the other was scored on other sequences.
        """
        a, b = self.by_sequence(statistic), other.by_sequence(statistic)
        if odd := sorted({*a.index} ^ {*b.index}):
            runs = f"two runs were scored on different sequences ({odd[0]}, ...)"
            raise InputError(f"{runs}; evaluate both on the same ones")
        return bootstrap_interval(a - b, self.weights)

    def minus_by_seed(self, other: Measured, statistic: str) -> pd.Series:
        """Return the differences of the means, one for each seed that both have."""
        return (self.by_seed(statistic) - other.by_seed(statistic)).dropna()
