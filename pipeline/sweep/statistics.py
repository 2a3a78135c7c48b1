"""A mean with its interval over a few seeds."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, sqrt
from statistics import fmean
from typing import NamedTuple

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean over seeds, and half of its 95 % interval."""

    mean: float
    half: float | None  # None with one seed
    seeds: int

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half

    def scaled(self, factor: float) -> Interval:
        """The interval in another unit."""
        half = None if self.half is None else factor * self.half
        return self._replace(mean=factor * self.mean, half=half)

    def __format__(self, pattern: str) -> str:
        """`2.941 ± 0.012`, or only the mean if there is a single seed."""
        mean = format(self.mean, pattern)
        return (
            mean if self.half is None else f"{mean} ± {format(self.half, pattern.replace('+', ''))}"
        )


def interval(values: Sequence[float]) -> Interval:
    """Mean and interval by Student's t of independent values, one per seed.

    Raises:   ValueError: no values
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Interval(mean, None, 1)
    from scipy.special import stdtrit  # slow to import, and many callers only count trials

    # `statistics.stdev` would take 40 times as long.
    error = sqrt(fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    return Interval(mean, float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error, count)
