"""Logarithmic axes whose every number reads as itself: 0.5 and not a small 5."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go

FACTORS = (1, 2, 5)
MAX_DECADES = 3.5  # over more of them only the powers of ten are named


def spans(values: Iterable[float], factor: float = 10.0) -> bool:
    """Whether positive values lie so far apart that a linear axis would squeeze most of them."""
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    return len(positive) > 1 and max(positive) > factor * min(positive)


def make_logarithmic(chart: go.Figure, axis: str, values: Iterable[float]) -> None:
    """Turns axis `x` or `y` logarithmic, with ticks for these values."""
    ticks = log_ticks([value for value in values if value > 0 and math.isfinite(value)])
    update = chart.update_xaxes if axis == "x" else chart.update_yaxes
    update(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])


def log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten around positive values; powers alone where they span far."""
    if not values:
        return []
    low, high = math.log10(min(values)), math.log10(max(values))
    factors = FACTORS if high - low < MAX_DECADES else (1,)
    powers = range(math.floor(low) - 1, math.ceil(high) + 1)
    return [float(f"{factor}e{power}") for power in powers for factor in factors]
