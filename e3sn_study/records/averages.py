"""How scores are averaged, over objects and then seeds; intervals are over sequences and seeds."""

from dataclasses import dataclass
from typing import NamedTuple, Self

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


def bootstrap_interval(
    values: ArrayLike, weights: ArrayLike, others: ArrayLike | None = None
) -> Interval:
    """Return a mean, or the difference of two, with the percentile interval of its bootstrap.

    Each resample draws sequences, the same for all seeds and both methods, and draws seeds for each
    method (Owen, "The pigeonhole bootstrap", 2007). Of a single seed only sequences are drawn.

    Args:
        values: finite numbers, (N,) one per sequence, or (S, N) one per seed and sequence. Raises
            InputError if there are none, or if one is not finite.
        weights: (N,) objects of each sequence, for a mean over objects.
        others: values of another method on the same sequences, which are subtracted.
    """
    w, random = np.asarray(weights, np.float64), np.random.default_rng(0)
    drawn = random.integers(max(w.size, 1), size=(RESAMPLES, w.size))
    mean, means = 0.0, np.zeros(RESAMPLES)
    for sign, scores in ((1, values), (-1, others)):
        if scores is None:
            continue
        x = np.atleast_2d(np.asarray(scores, np.float64))
        if x.size == 0 or not np.isfinite(x).all():
            raise InputError("an interval needs at least one value, and finite ones")
        by_seed = (x * w)[:, drawn].sum(axis=2) / w[drawn].sum(axis=1)
        seeds = random.integers(len(x), size=by_seed.shape)
        means += sign * np.take_along_axis(by_seed, seeds, axis=0).mean(axis=0)
        mean += sign * float((x * w).sum() / (len(x) * w.sum()))
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(mean, float(low), float(high))


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

    def by_seed_and_sequence(self, statistic: str) -> pd.DataFrame:
        """Return the mean over objects, a row per seed and a column per sequence."""
        return self.objects.groupby(["seed", "sequence"])[statistic].mean().unstack()

    def interval(self, statistic: str) -> Interval:
        """Return the mean over objects with its interval over sequences and seeds."""
        return bootstrap_interval(self.by_seed_and_sequence(statistic), self.weights)

    def minus(self, other: Self, statistic: str) -> Interval:
        """Return the difference, paired by sequence, with its interval over sequences and seeds;
        raises InputError if the other was scored on other sequences."""
        a, b = self.by_seed_and_sequence(statistic), other.by_seed_and_sequence(statistic)
        if odd := sorted({*a.columns} ^ {*b.columns}):
            runs = f"two runs were scored on different sequences ({odd[0]}, ...)"
            raise InputError(f"{runs}; evaluate both on the same ones")
        return bootstrap_interval(a, self.weights, b)

    def minus_by_seed(self, other: Self, statistic: str) -> pd.Series:
        """Return the differences of the means, one for each seed that both have."""
        return (self.by_seed(statistic) - other.by_seed(statistic)).dropna()
