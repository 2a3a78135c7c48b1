"""One figure of a sweep over its settings and expert counts.

Shape suffixes: R settings, C expert counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from evenload.dashboard.charts.style import GOOD_IS_HIGH, GOOD_IS_LOW, LIGHT, colorbar, figure
from evenload.dashboard.record_tables import Grid


class Metric(NamedTuple):
    """How a figure of the grid is shown."""

    name: str
    title: str
    unit: str
    decimals: int
    best: float | None  # where the colours begin; None: at the best of the sweep
    least_span: float  # they end this far from it or farther: a tiny difference looks tiny
    good_is_low: bool = True


GRID_METRICS = (
    Metric("val_bits_per_byte", "Validation loss", "bits per byte", 3, None, 0.05),
    Metric("max_vio", "MaxVio, steady", "times the fair share", 2, 0.0, 1.0),
    Metric("idle_frac", "Idle experts in a step", "%", 1, 0.0, 5.0),
    Metric("effective_util", "Effective utilisation", "%", 0, 100.0, 50.0, good_is_low=False),
)


def sweep_grid(grid: Grid, metric: Metric) -> go.Figure:
    """Settings down, expert counts across; the number in each cell, or why there is none."""
    text_RC = [
        [
            f"{value:.{metric.decimals}f}" if np.isfinite(value) else note
            for value, note in zip(values, notes, strict=True)
        ]
        for values, notes in zip(grid.value_RC, grid.note_RC, strict=True)
    ]
    low, high = _colour_range(grid.value_RC, metric)
    heatmap = go.Heatmap(
        z=grid.value_RC,
        x=[f"{experts}" for experts in grid.experts_C],
        y=grid.setting_R,
        zmin=low,
        zmax=high,
        text=text_RC,
        texttemplate="%{text}",
        textfont={"size": 13},
        colorscale=GOOD_IS_LOW if metric.good_is_low else GOOD_IS_HIGH,
        xgap=2,
        ygap=2,
        hoverongaps=False,
        hovertemplate=f"%{{y}}<br>%{{x}} experts<br><b>%{{z:.{metric.decimals + 1}f}}</b> "
        f"{metric.unit}<extra></extra>",
        colorbar=colorbar(metric.unit),
    )
    chart = figure(
        heatmap,
        height=max(220, 90 + 34 * len(grid.setting_R)),
        says=_says(grid, metric),
        x="experts per layer",
    )
    chart.update_layout(plot_bgcolor=LIGHT.ground)  # cells that have no number yet
    chart.update_xaxes(type="category", showgrid=False)
    chart.update_yaxes(type="category", autorange="reversed", showgrid=False, automargin=True)
    return chart


def _says(grid: Grid, metric: Metric) -> str:
    """The best cell in words."""
    name = f"{metric.title} of {len(grid.setting_R)} settings at {len(grid.experts_C)} counts"
    if not np.isfinite(grid.value_RC).any():
        return f"{name}. No trial has a figure yet."
    best = np.nanargmin if metric.good_is_low else np.nanargmax
    row, column = np.unravel_index(best(grid.value_RC), grid.value_RC.shape)
    return (
        f"{name}. Best is {grid.setting_R[row]} with {grid.experts_C[column]} experts: "
        f"{grid.value_RC[row, column]:.{metric.decimals}f} {metric.unit}."
    )


def _colour_range(value_RC: NDArray[np.float32], metric: Metric) -> tuple[float, float]:
    finite = value_RC[np.isfinite(value_RC)]
    values = finite.tolist() or [0.0 if metric.best is None else metric.best]
    if metric.good_is_low:
        low = min(values) if metric.best is None else metric.best
        return low, max(low + metric.least_span, *values)
    high = max(values) if metric.best is None else metric.best
    return min(high - metric.least_span, *values), high
