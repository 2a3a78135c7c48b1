"""Maps of load: what every expert got, as a share of what it ought to get.

Shape suffixes: B bins of time, L expert layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from evenload.dashboard.charts.style import LIGHT, colorbar, figure

CLIP_PERCENT = 200  # loads above twice the fair share are drawn alike

# From the smallest busy value (1 %) to twice the fair share; below it is the colour of idle.
LOAD_SCALE = [
    [0.0, LIGHT.idle],
    [0.5 / CLIP_PERCENT, LIGHT.idle],
    [0.5 / CLIP_PERCENT, LIGHT.lowest],
    [0.3, LIGHT.low],
    [0.5, LIGHT.fair],
    [0.7, LIGHT.high],
    [1.0, LIGHT.highest],
]


def load_by_layer(
    percent_LE: NDArray[np.int16], layer_names: Sequence[str], is_sorted: bool = False
) -> go.Figure:
    """Layers down, experts across, load in percent of the fair share."""
    rank = "busiest first" if is_sorted else "expert"
    shown_LE = -np.sort(-percent_LE, axis=-1) if is_sorted else percent_LE
    chart = figure(
        load_heatmap(shown_LE, y=list(layer_names), hover="layer %{y}, expert %{x}", gap=1),
        height=max(240, 100 + 26 * len(layer_names)),
        says=f"Load of {percent_LE.shape[-1]} experts in {len(percent_LE)} layers. "
        + _extremes(percent_LE),
        x=f"{rank} (0 to {percent_LE.shape[-1] - 1})",
        y="layer",
    )
    chart.update_xaxes(showgrid=False)
    chart.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return chart


def load_over_time(percent_BE: NDArray[np.int16], step_B: NDArray[np.int32]) -> go.Figure:
    """Experts down, time across."""
    chart = figure(
        load_heatmap(percent_BE.T, x=step_B, hover="step %{x}, expert %{y}"),
        height=420,
        says=f"Load of {percent_BE.shape[-1]} experts over time. " + _extremes(percent_BE),
        x="optimizer step",
        y="expert",
    )
    chart.update_xaxes(showgrid=False)
    chart.update_yaxes(autorange="reversed", showgrid=False)
    return chart


def load_heatmap(percent: NDArray[np.int16], hover: str, gap: int = 0, **axes: Any) -> go.Heatmap:
    """Loads in percent of the fair share, idle apart; -1 is blank: nothing was counted."""
    uncounted = percent < 0
    return go.Heatmap(
        z=np.where(uncounted, np.nan, percent).astype(np.float32) if uncounted.any() else percent,
        zmin=0,
        zmax=CLIP_PERCENT,
        colorscale=LOAD_SCALE,
        xgap=gap,
        ygap=gap,
        hovertemplate=hover + "<br><b>%{z} %</b> of the fair share<extra></extra>",
        colorbar=colorbar("load / fair share")
        | {
            "tickvals": [0, 50, 100, 150, 200],
            "ticktext": ["idle", "0.5×", "1× fair", "1.5×", "2× and more"],
        },
        **axes,
    )


def _extremes(percent: NDArray[np.int16]) -> str:
    """The range of a map in words."""
    counted = percent[percent >= 0]
    if not counted.size:
        return "Nothing was counted."
    idle = 100 * float((counted == 0).mean())
    return (
        f"From {counted.min()} % to {counted.max()} % of the fair share; "
        f"{idle:.1f} % of the cells are idle."
    )
