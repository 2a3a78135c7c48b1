"""Selection biases over time: where each expert's goes, and how far they drift.

Shape suffixes: B bins of time, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from evenload.dashboard.charts.style import LOW_TO_HIGH, figure, layer_lines, line, ramp

MAX_LINES = 64


def bias_paths(bias_BE: NDArray[np.float32], step_B: NDArray[np.int32]) -> go.Figure:
    """Bias of each expert over time; of many experts `MAX_LINES`, evenly spread by final rank."""
    order_E = np.argsort(bias_BE[-1]) if len(bias_BE) else np.arange(bias_BE.shape[-1])
    ranks = np.unique(np.linspace(0, len(order_E) - 1, min(MAX_LINES, len(order_E))).astype(int))
    lines = [
        line(step_B, bias_BE[:, expert], colour, f"expert {expert}", "%{y:.4f}", width=1.1)
        for expert, colour in zip(order_E[ranks], ramp(LOW_TO_HIGH, len(ranks)), strict=True)
    ]
    chart = figure(
        *lines,
        height=340,
        says=_says(bias_BE),
        x="optimizer step",
        y="selection bias, score units",
    )
    chart.update_layout(showlegend=False, hovermode="closest")
    return chart


def bias_drift(
    drift_BL: NDArray[np.float32], step_B: NDArray[np.int32], layer_names: Sequence[str]
) -> go.Figure:
    """How far a layer's biases move in a step; a rule that has settled moves little."""
    return _by_layer(drift_BL, step_B, layer_names, "Bias drift", "score units per step")


def bias_spread(
    spread_BL: NDArray[np.float32], step_B: NDArray[np.int32], layer_names: Sequence[str]
) -> go.Figure:
    """Largest minus smallest bias of a layer: how much help its experts need."""
    return _by_layer(spread_BL, step_B, layer_names, "Bias spread", "score units")


def _by_layer(
    value_BL: NDArray[np.float32],
    step_B: NDArray[np.int32],
    names: Sequence[str],
    title: str,
    unit: str,
) -> go.Figure:
    end = f"At the end at most {value_BL[-1].max():.2g} {unit}." if len(value_BL) else ""
    chart = figure(
        *layer_lines(value_BL, step_B, names, "%{y:.3g}"),
        height=300,
        says=f"{title} of {len(names)} layers over time. {end}",
        x="optimizer step",
        y=f"{title.lower()}, {unit}",
    )
    chart.update_yaxes(rangemode="tozero", exponentformat="power")
    return chart


def _says(bias_BE: NDArray[np.float32]) -> str:
    if not len(bias_BE):
        return "Selection biases over time. Nothing is recorded yet."
    low, high = int(bias_BE[-1].argmin()), int(bias_BE[-1].argmax())
    return (
        f"Selection biases of {bias_BE.shape[-1]} experts over time. They end between "
        f"{bias_BE[-1, low]:.4f} (expert {low}) and {bias_BE[-1, high]:.4f} (expert {high})."
    )
