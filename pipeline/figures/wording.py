"""Writes numbers and lists for tables, tiles and sentences of terminal, report and dashboard."""

import math
from collections.abc import Sequence
from textwrap import fill
from typing import Any

NONE = "–"
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def is_missing(value: Any) -> bool:
    """Whether the value is None, NaN, or an interval around NaN."""
    return value is None or math.isnan(value[0] if isinstance(value, tuple) else value)


def number(value: Any, pattern: str = ",.3f", unit: str = "") -> str:
    """A number, or an `Interval`, in the format `pattern`; a dash if it is missing."""
    return NONE if is_missing(value) else format(value, pattern) + unit


def duration(seconds: float | None) -> str:
    """`0.4 s`, `42 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`; a dash if it is missing."""
    if seconds is None or math.isnan(seconds):
        return NONE
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes == 0:
        return f"{whole} s"
    if hours == 0:
        return f"{minutes} min {whole % 60:02d} s"
    if days == 0:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{days} d {hours % 24} h"


def scaled(value: float, unit: str = "") -> str:
    """`1.23 M`, `4.56 PFLOP`, `78.9 GB`: three digits with a decimal prefix."""
    size, prefix = next(((size, prefix) for size, prefix in PREFIXES if value >= size), (1.0, ""))
    return f"{value / size:.3g} {prefix}{unit}".rstrip()


def wrapped(head: str) -> str:
    """A column's title, broken into short lines."""
    return fill(head, 8, break_long_words=False)


def counted(count: int, noun: str) -> str:
    """`1 trial`, `3 trials`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def listed(values: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(values[:-1]), values[-1]] if len(values) > 1 else values)
