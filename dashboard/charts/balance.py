"""How even the loads are over time, layer by layer, beside what chance alone would show.

Shape suffixes: B bins of time, L expert layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from dashboard.charts.style import add_level, figure, layer_lines


def idle_over_time(
    idle_BL: NDArray[np.float32],
    step_B: NDArray[np.int32],
    layer_names: Sequence[str],
    expected: float,
) -> go.Figure:
    """Share of idle experts by layer; `expected` is what uniform random routing would leave."""
    chart = _by_layer(
        100 * idle_BL, step_B, layer_names, "%{y:.1f} %", "idle experts, %", "Idle experts"
    )
    text = f"by chance {100 * expected:.2f} %" if expected > 5e-5 else "by chance none"
    add_level(chart, step_B, 100 * expected, text)
    chart.update_yaxes(rangemode="tozero", minallowed=0)
    return chart


def max_vio_over_time(
    vio_BL: NDArray[np.float32],
    step_B: NDArray[np.int32],
    layer_names: Sequence[str],
    floor: float,
) -> go.Figure:
    """MaxVio by layer beside the value that a fair router shows by chance."""
    chart = _by_layer(
        vio_BL, step_B, layer_names, "%{y:.3f}", "MaxVio (max load / fair share − 1)", "MaxVio"
    )
    add_level(chart, step_B, floor, f"sampling floor {floor:.2g}")
    chart.update_yaxes(rangemode="tozero")
    return chart


def _by_layer(
    value_BL: NDArray[np.float32],
    step_B: NDArray[np.int32],
    names: Sequence[str],
    hover: str,
    title: str,
    name: str,
) -> go.Figure:
    return figure(
        *layer_lines(value_BL, step_B, names, hover),
        height=340,
        says=f"{name} of {len(names)} layers over time. " + _last(value_BL, names),
        x="optimizer step",
        y=title,
    )


def _last(value_BL: NDArray[np.float32], names: Sequence[str]) -> str:
    """The newest values in words."""
    if not len(value_BL):
        return "Nothing is recorded yet."
    value_L = value_BL[-1]
    low, high = int(value_L.argmin()), int(value_L.argmax())
    return (
        f"At the end {value_L[low]:.2f} in layer {names[low]} "
        f"to {value_L[high]:.2f} in layer {names[high]}."
    )
