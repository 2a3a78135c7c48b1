"""How numbers are worded in a report."""

from __future__ import annotations

import math

from evenload.pipeline.sweep.statistics import Interval

NONE = "–"


def number(value: float | None, decimals: int = 3) -> str:
    """A dash where there is none."""
    return NONE if value is None or math.isnan(value) else f"{value:,.{decimals}f}"


def percent(share: float | None, decimals: int = 1) -> str:
    return NONE if share is None or math.isnan(share) else f"{share:.{decimals}%}"


def with_half(value: Interval, decimals: int = 3, sign: bool = False) -> str:
    """`2.941 ± 0.012`; the mean alone where one seed tells no spread."""
    mean = f"{value.mean:{'+' if sign else ''},.{decimals}f}"
    return mean if value.half is None else f"{mean} ± {value.half:,.{decimals}f}"


def duration(seconds: float) -> str:
    """`42 s`, `3.4 min`, `2.1 h`."""
    if math.isnan(seconds):
        return NONE
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 6000:
        return f"{seconds / 60:,.1f} min"
    return f"{seconds / 3600:,.1f} h"


def energy(joules: float) -> str:
    """`310 J`, `12.3 Wh`, `4.5 kWh`."""
    hours = joules / 3600
    if hours < 1:
        return f"{joules:,.0f} J"
    return f"{hours:,.1f} Wh" if hours < 1000 else f"{hours / 1000:,.1f} kWh"


def mass(grams: float) -> str:
    """`0.42 g`, `37 g`, `1.2 kg`."""
    return f"{grams:.2g} g" if grams < 100 else f"{grams / 1000:,.2g} kg"


def counted(count: int, noun: str) -> str:
    """`1 trial`, `3 trials`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def listed(values: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(values[:-1]), values[-1]] if len(values) > 1 else values)
