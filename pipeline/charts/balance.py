"""How even the loads are over time, layer by layer, beside what chance alone would show.

Shape suffixes: B bins of time, L expert layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.charts.lines import layer_lines, level, line_chart
from evenload.pipeline.charts.maps import Scale, Side, heat_map, per_cell, pooled, sharing
from evenload.pipeline.charts.style import BAD, GOOD, MIDDLING, Chart

STEP = "optimizer step"


def max_vio_over_time(
    vio_BL: NDArray[Any], step_B: NDArray[np.int32], layers: Sequence[str], floor: float
) -> Chart:
    """MaxVio by layer beside the value that a fair router shows by chance."""
    chance = level(step_B, floor, f"sampling floor {floor:.2g}")
    title = "MaxVio (max load / fair share − 1)"
    lines = [*layer_lines(vio_BL, step_B, layers), *chance]
    return line_chart(lines, STEP, title, _says("MaxVio", vio_BL, layers), 340, from_zero=True)


def idle_over_time(
    idle_BL: NDArray[Any], step_B: NDArray[np.int32], layers: Sequence[str], expected: float
) -> Chart:
    """Share of idle experts by layer; `expected` is what uniform random routing would leave."""
    chance = f"by chance {100 * expected:.2f} %" if expected > 5e-5 else "by chance none"
    percent_BL, says = 100 * idle_BL, _says("Idle experts", 100 * idle_BL, layers)
    lines = [*layer_lines(percent_BL, step_B, layers), *level(step_B, 100 * expected, chance)]
    return line_chart(lines, STEP, "idle experts, %", says, 340, number=".1f", from_zero=True)


def idle_streak_over_time(
    streak_BL: NDArray[np.int32], step_B: NDArray[np.int32], layers: Sequence[str]
) -> Chart:
    """Steps in a row that a layer's longest-idle expert has been without a token."""
    title, says = "longest idle streak, steps", _says("Longest idle streak", streak_BL, layers)
    lines = layer_lines(streak_BL, step_B, layers)
    return line_chart(lines, STEP, title, says, 340, number=",d", from_zero=True)


def longest_idle_streaks(streak_LE: NDArray[np.int32], layers: Sequence[str]) -> Chart:
    """Layers down, experts across: the longest run of steps without a token; blank is none."""
    L, E = streak_LE.shape
    size, most = per_cell(L, E), int(streak_LE.max())
    layer, expert = divmod(int(streak_LE.argmax()), E)
    shown_LE, top = pooled(streak_LE, 1, size), max(1, most)
    return heat_map(
        np.where(shown_LE > 0, shown_LE, -1),
        Side("layer", layers),
        Side("expert" + sharing(size), range(0, E, size)),
        Scale("steps", (0, top / 2, top), (GOOD, MIDDLING, BAD), (0, top)),
        f"Longest idle streaks of {E} experts in {L} layers: at most {most:,} "
        f"steps, of expert {expert} in layer {layers[layer]}.",
        340,
    )


def _says(what: str, value_BL: NDArray[Any], names: Sequence[str]) -> str:
    """The newest values in words."""
    text = f"{what} of {len(names)} layers over time."
    if not len(value_BL):
        return f"{text} Nothing is recorded yet."
    value_L = value_BL[-1].astype(float)
    low, high = int(value_L.argmin()), int(value_L.argmax())
    return (
        f"{text} At the end {value_L[low]:.2f} in layer {names[low]} "
        f"to {value_L[high]:.2f} in layer {names[high]}."
    )
