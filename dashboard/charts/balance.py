"""How even the loads are over time, layer by layer, beside what chance alone would show.

Shape suffixes: B bins of time, L expert layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from evenload.dashboard.charts.style import (
    GOOD_IS_LOW,
    LIGHT,
    add_level,
    colorbar,
    figure,
    layer_lines,
)


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


def idle_streak_over_time(
    streak_BL: NDArray[np.int32], step_B: NDArray[np.int32], layer_names: Sequence[str]
) -> go.Figure:
    """Steps in a row that a layer's longest-idle expert has been without a token."""
    chart = _by_layer(
        streak_BL.astype(np.float32),
        step_B,
        layer_names,
        "%{y:,.0f} steps",
        "longest idle streak, steps",
        "Longest idle streak",
    )
    chart.update_yaxes(rangemode="tozero", minallowed=0)
    return chart


def longest_idle_streaks(streak_LE: NDArray[np.int32], layer_names: Sequence[str]) -> go.Figure:
    """Layers down, experts across: the longest run of steps without a token; blank is none."""
    L, E = streak_LE.shape
    layer, expert = divmod(int(streak_LE.argmax()), E)
    chart = figure(
        go.Heatmap(
            z=np.where(streak_LE > 0, streak_LE, np.nan).astype(np.float32),
            y=list(layer_names),
            zmin=0,
            zmax=max(1, int(streak_LE.max())),
            colorscale=GOOD_IS_LOW,
            xgap=1,
            ygap=1,
            hovertemplate="layer %{y}, expert %{x}<br><b>%{z:,} steps</b><extra></extra>",
            colorbar=colorbar("steps"),
        ),
        height=340,
        says=f"Longest idle streaks of {E} experts in {L} layers: at most {streak_LE.max():,} "
        f"steps, of expert {expert} in layer {layer_names[layer]}.",
        x=f"expert (0 to {E - 1})",
        y="layer",
    )
    chart.update_layout(plot_bgcolor=LIGHT.ground)
    chart.update_xaxes(showgrid=False, range=[-0.5, E - 0.5])
    chart.update_yaxes(type="category", autorange="reversed", showgrid=False)
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
