"""What a few seeds can tell: means with 95 % intervals, and differences paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean over seeds and its 95 % interval by Student's t."""

    mean: float
    half: float | None  # half the width; None: one seed tells no spread
    seeds: int

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half


def interval(values: Sequence[float]) -> Interval:
    """Mean and interval of independent values, one a seed.  Raises: ValueError: no value"""
    if not values:
        raise ValueError("an interval needs at least one value")
    count = len(values)
    if count == 1:
        return Interval(values[0], None, 1)
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return Interval(fmean(values), quantile * stdev(values) / count**0.5, count)


def p_value(differences: Sequence[float]) -> float | None:
    """Two-sided, of the mean difference being zero; None where the values have no spread."""
    count = len(differences)
    if count < 2 or stdev(differences) == 0:
        return None
    score = fmean(differences) / (stdev(differences) / count**0.5)
    return 2 * float(stdtr(count - 1, -abs(score)))
