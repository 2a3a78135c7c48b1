"""Several runs in one figure, whatever their sizes.

Shape suffixes: B bins of time, L expert layers, E experts, Q shares of the experts,
D shares of the depth, N runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from evenload.dashboard.charts.loads import load_heatmap
from evenload.dashboard.charts.style import CATEGORIES, LIGHT, colorbar, figure

SPAN_PERCENT = 100  # differences beyond a whole fair share are drawn alike
LESS_TO_MORE = [
    [0.0, LIGHT.lowest],
    [0.25, LIGHT.low],
    [0.5, LIGHT.fair],
    [0.75, LIGHT.high],
    [1.0, LIGHT.highest],
]


class Curve(NamedTuple):
    """One run over time."""

    x_B: NDArray[np.float64]
    y_B: NDArray[np.float32]
    level: float = float("nan")  # what to compare it with, e.g. its floor


def load_by_rank(sorted_percent: Mapping[str, NDArray[np.int16]]) -> go.Figure:
    """A line a run: load of its experts, busiest first, against their share of all experts.

    Args:     sorted_percent: by run, mean over layers of the loads by rank, (E,)
    """
    lines = [
        go.Scatter(
            x=100 * np.arange(len(percent_E) + 1) / len(percent_E),
            y=np.append(percent_E, percent_E[-1:]) / 100,
            name=name,
            mode="lines",
            line=_stroke(index) | {"shape": "hv"},
            hovertemplate="<b>%{y:.2f}×</b> the fair share<extra>" + name + "</extra>",
        )
        for index, (name, percent_E) in enumerate(sorted_percent.items())
    ]
    peaks = {name: percent_E.max() / 100 for name, percent_E in sorted_percent.items()}
    chart = figure(
        *lines,
        height=380,
        says="Load of experts by rank. Busiest expert: "
        + "; ".join(f"{name} {peak:.2f} times its fair share" for name, peak in peaks.items())
        + ".",
        x="share of the layer's experts, busiest first, %",
        y="load / fair share",
    )
    chart.add_hline(y=1, line={"color": LIGHT.red, "width": 1.5, "dash": "dash"})
    chart.update_xaxes(range=[0, 100])
    chart.update_yaxes(rangemode="tozero")
    return chart


def curves(runs: Mapping[str, Curve], x: str, y: str, hover: str) -> go.Figure:
    """A line a run over time; its level, where it has one, dotted in its colour."""
    chart = figure(
        *(
            go.Scatter(
                x=curve.x_B,
                y=curve.y_B,
                name=name,
                mode="lines" if len(curve.x_B) > 1 else "markers",
                line=_stroke(index),
                hovertemplate=f"<b>{hover}</b><extra>{name}</extra>",
            )
            for index, (name, curve) in enumerate(runs.items())
        ),
        height=360,
        says=f"{y} of {len(runs)} runs. At the end: "
        + "; ".join(f"{name} {curve.y_B[-1]:.3g}" for name, curve in runs.items() if len(curve.y_B))
        + ".",
        x=x,
        y=y,
    )
    for index, (name, curve) in enumerate(runs.items()):
        if len(curve.x_B) and np.isfinite(curve.level):
            chart.add_trace(
                go.Scatter(
                    x=[curve.x_B[0], curve.x_B[-1]],
                    y=[curve.level, curve.level],
                    name=f"floor of {name}",
                    mode="lines",
                    showlegend=False,
                    line={"color": _stroke(index)["color"], "width": 1, "dash": "dot"},
                    hoverinfo="skip",
                )
            )
    return chart


def load_map(percent_LQ: NDArray[np.int16], name: str) -> go.Figure:
    """Layers down, experts by rank across, as shares of both: maps of any size look alike."""
    L, Q = percent_LQ.shape
    chart = figure(
        load_heatmap(
            percent_LQ,
            x=_middles(Q),
            y=_middles(L),
            hover="depth %{y:.0f} %, busiest %{x:.0f} % of the experts",
        ),
        height=280,
        says=f"Load of {name} by depth of the layer and rank of the expert, "
        f"at most {percent_LQ.max()} % of the fair share.",
        x="share of the experts, busiest first, %",
        y="depth, %",
    )
    return _shares(chart)


def difference_map(points_DQ: NDArray[np.int16], name: str, reference: str) -> go.Figure:
    """Depth down, experts by rank across: load minus the reference's."""
    chart = figure(
        go.Heatmap(
            z=points_DQ,
            x=_middles(points_DQ.shape[1]),
            y=_middles(points_DQ.shape[0]),
            zmin=-SPAN_PERCENT,
            zmax=SPAN_PERCENT,
            colorscale=LESS_TO_MORE,
            hovertemplate="depth %{y:.0f} %, busiest %{x:.0f} % of the experts<br>"
            "<b>%{z:+d} points</b> of the fair share<extra></extra>",
            colorbar=colorbar("points of the fair share")
            | {
                "tickvals": [-100, -50, 0, 50, 100],
                "ticktext": ["−100 and less", "−50", "same", "+50", "+100 and more"],
            },
        ),
        height=280,
        says=f"Load of {name} minus that of {reference} by depth and rank: from "
        f"{points_DQ.min():+d} to {points_DQ.max():+d} points of the fair share.",
        x="share of the experts, busiest first, %",
        y="depth, %",
    )
    return _shares(chart)


def _shares(chart: go.Figure) -> go.Figure:
    chart.update_xaxes(showgrid=False, range=[0, 100])
    chart.update_yaxes(showgrid=False, range=[100, 0])
    return chart


def _middles(cells: int) -> NDArray[np.float32]:
    return (100 * (np.arange(cells) + 0.5) / cells).astype(np.float32)


def _stroke(index: int) -> dict[str, str | float]:
    """Colour and dash: four runs differ in colour alone, eight in both."""
    return {
        "color": CATEGORIES[index % len(CATEGORIES)],
        "width": 1.6,
        "dash": "solid" if index < 4 else "dash",
    }
