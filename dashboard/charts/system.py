"""What training took of its machine.

Shape suffixes: N samples.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from evenload.dashboard.charts.style import LIGHT, figure

MAX_POINTS = 400


def resource_curve(
    value_N: NDArray[np.float64], step_N: NDArray[np.float64], title: str, unit: str
) -> go.Figure:
    """One resource over the steps; of many samples the largest of each neighbourhood."""
    step_B, value_B = _reduced(step_N), _reduced(value_N)
    chart = figure(
        go.Scatter(
            x=step_B.astype(np.int32),
            y=value_B.astype(np.float32),
            mode="lines" if len(value_B) > 1 else "markers",
            name=title,
            line={"color": LIGHT.blue, "width": 1.6},
            marker={"color": LIGHT.blue},
            hovertemplate=f"step %{{x}}: <b>%{{y:,.1f}} {unit}</b><extra></extra>",
        ),
        height=260,
        says=f"{title} over time: mean {value_N.mean():,.1f}, at most {value_N.max():,.1f} {unit}.",
        x="optimizer step",
        y=unit,
    )
    chart.update_yaxes(rangemode="tozero")
    return chart


def _reduced(value_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most MAX_POINTS values: the largest of equal shares of the samples."""
    first = np.unique(np.linspace(0, len(value_N), MAX_POINTS, endpoint=False).astype(int))
    return np.maximum.reduceat(value_N, first) if len(value_N) > MAX_POINTS else value_N
