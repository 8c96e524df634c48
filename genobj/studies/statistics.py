"""Means over seeds, and whether two variants differ by more than their seeds do."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.stats import t as student

LEVEL = 0.95
"""Of every interval."""
ALL = 6
"""Seeds up to which every resample is looked at: 6 to the power of 6 are 46,656."""


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation of the finite values; `broken` others were nan or infinite."""

    mean: float
    """nan where no value is finite."""
    spread: float
    """nan for fewer than two values."""
    n: int
    broken: int = 0


@dataclass(frozen=True)
class Paired:
    """Two variants over common seeds: the mean of their differences or of their ratios, with two 95 % intervals.

    Ratios are those of geometric means: logarithms are compared, then taken back.

    The percentile bootstrap asks little of the differences, but is too narrow for few of them: with three seeds it
    excludes zero as soon as all signs agree, which chance alone does once in four times. Student's t knows about few
    seeds, but takes the differences as normal. So both have to exclude zero, or a ratio of one.
    """

    difference: float
    """Or the ratio of geometric means; low, high, t_low and t_high are ratios then, too."""
    low: float
    """Bootstrap; nan for one seed."""
    high: float
    t_low: float
    """Student's t; nan for one seed."""
    t_high: float
    p: float
    """Two-sided: the larger one of the two methods. Below .05 exactly where `significant`; nan for one seed."""
    n: int
    """Common seeds with finite values."""
    ratio: bool = False
    """Whether logarithms were compared."""

    @property
    def equal(self) -> float:
        """What stands for no difference: a ratio of 1, or 0."""
        return 1.0 if self.ratio else 0.0

    @property
    def larger(self) -> bool:
        """Whether the first variant has the larger values."""
        return self.difference > self.equal

    @property
    def interval(self) -> tuple[float, float]:
        """From the lower one to the higher one of both methods' ends: what tables and sentences tell."""
        return min(self.low, self.t_low), max(self.high, self.t_high)

    @property
    def significant(self) -> bool:
        """Whether both intervals exclude zero, or a ratio of one."""
        low, high = self.interval
        return low > self.equal or high < self.equal


def summary(values: Iterable[float]) -> Summary:
    """Mean, spread and number of values."""
    every = list(values)
    # sorted, so that their order changes nothing, not even by rounding
    good = sorted(value for value in every if math.isfinite(value))
    mean = float(np.mean(good)) if good else math.nan
    return Summary(mean, float(np.std(good, ddof=1)) if len(good) > 1 else math.nan, len(good), len(every) - len(good))


def positive(*values: Iterable[float]) -> bool:
    """Whether all finite values are above zero, so that logarithms can be compared.

    They are wherever they can be. The errors of distances are multiplicative: what is twice as large scatters twice as
    much. On raw values the larger variant's scatter alone would decide, and hide even a ratio of a hundred.
    """
    return all(value > 0 for side in values for value in side if math.isfinite(value))


def paired(
    a: Mapping[int, float],
    b: Mapping[int, float],
    *,
    ratio: bool | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Paired | None:
    """a / b or a - b over their common seeds: one seed gives both the same data order and noise, so much cancels.

    Seeds where either is not finite are left out. None if no seed is common. Up to six seeds every resample is looked
    at; for more, `resamples` of them are drawn, always the same ones for the same `seed`.

    ratio: whether to divide, which takes positive values; unset: where all of those compared are `positive`.
    """
    common = sorted(key for key in a.keys() & b.keys() if math.isfinite(a[key]) and math.isfinite(b[key]))
    if not common:
        return None
    left, right = ([side[key] for key in common] for side in (a, b))
    divide = positive(left, right) if ratio is None else ratio
    if not divide:
        return _paired(np.array(left) - np.array(right), resamples, seed)
    found = _paired(np.log(left) - np.log(right), resamples, seed)
    return replace(
        found,
        difference=_exp(found.difference),
        low=_exp(found.low),
        high=_exp(found.high),
        t_low=_exp(found.t_low),
        t_high=_exp(found.t_high),
        ratio=True,
    )


def _exp(value: float) -> float:
    """Infinite where two seeds of very different ratios leave an end beyond all numbers."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.exp(value))


def _paired(differences: np.ndarray, resamples: int, seed: int) -> Paired:
    n, mean = len(differences), float(differences.mean())
    if n == 1:
        return Paired(mean, math.nan, math.nan, math.nan, math.nan, math.nan, 1)
    means = differences[_picks(n, resamples, seed)].mean(1)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * error
    # counting zero on both sides makes p < .05 mean the same as an interval without zero
    bootstrap = min(1.0, 2 * min(float((means <= 0).mean()), float((means >= 0).mean())))
    by_t = 2 * float(student.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Paired(mean, _low(means), -_low(-means), mean - half, mean + half, max(bootstrap, by_t), n)


def _low(means: np.ndarray) -> float:
    """Lower end of the percentile interval; the upper one is its mirror image, so that swapping a and b is exact."""
    return float(np.quantile(means, (1 - LEVEL) / 2, method="inverted_cdf"))


@lru_cache(maxsize=32)
def _picks(n: int, resamples: int, seed: int) -> np.ndarray:
    """Places of a resample's values, (resamples, n): all n ** n where these are few."""
    if n <= ALL:
        return np.indices((n,) * n).reshape(n, -1).T
    return np.random.default_rng(seed).integers(n, size=(resamples, n))
