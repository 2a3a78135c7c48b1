"""Statistics over a few seeds: means with 95 % intervals, and tests of paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, sqrt
from statistics import fmean
from typing import NamedTuple

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean over seeds and its 95 % interval by Student's t."""

    mean: float
    half: float | None  # half the width; None with one seed
    seeds: int

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half

    def __format__(self, pattern: str) -> str:
        """`2.941 ± 0.012`, or only the mean if there is a single seed."""
        mean = format(self.mean, pattern)
        return (
            mean if self.half is None else f"{mean} ± {format(self.half, pattern.replace('+', ''))}"
        )


def interval(values: Sequence[float]) -> Interval:
    """Mean and interval of independent values, one per seed.  Raises: ValueError: no values"""
    if not values:
        raise ValueError("an interval needs at least one value")
    count = len(values)
    if count == 1:
        return Interval(values[0], None, 1)
    from scipy.special import stdtrit  # slow to import, and many callers only count trials

    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return Interval(fmean(values), quantile * _standard_error(values), count)


def p_value(differences: Sequence[float]) -> float | None:
    """The two-sided p-value of a mean difference of zero, by Student's t; None without spread."""
    count = len(differences)
    error = _standard_error(differences) if count > 1 else 0.0
    if error == 0:
        return None
    from scipy.special import stdtr

    return 2 * float(stdtr(count - 1, -abs(fmean(differences) / error)))


def _standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean. `statistics.stdev` would take 40 times as long."""
    mean, count = fmean(values), len(values)
    return sqrt(fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
