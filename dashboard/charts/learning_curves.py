"""Held-out loss of every trial of a sweep while it trained; the ones that were stopped are faded.

Shape suffixes: P points of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from evenload.dashboard.charts.line_styles import Look, looks
from evenload.dashboard.charts.style import LIGHT, figure

Unit = Literal["steps", "tokens"]
AXES: dict[Unit, str] = {"steps": "optimizer step", "tokens": "tokens trained"}
MAX_NAMED = 24  # settings in the legend
MAX_POINTS = 12_000  # of all curves together: 100 KB on the wire


class Curve(NamedTuple):
    """One trial's."""

    name: str  # setting, experts, seed
    group: str  # its setting, which gives the colour
    x_P: NDArray[np.float64]
    y_P: NDArray[np.float64]
    ended: str  # why it was stopped; empty where it was not


def learning_curves(curves: Sequence[Curve], x: Unit, y: str) -> go.Figure:
    """A line a trial, a colour a setting; a stopped one is faint and ends in a cross."""
    groups = list(dict.fromkeys(curve.group for curve in curves))
    look = looks(groups)
    keep = _every(sum(len(curve.x_P) for curve in curves))
    traces: list[go.Scatter] = []
    crosses: list[go.Scatter] = []
    for group in groups:
        own = [curve for curve in curves if curve.group == group]
        whole = [curve for curve in own if not curve.ended]
        stopped = [curve for curve in own if curve.ended]
        for part, faded in ((whole, False), (stopped, True)):
            if part:
                traces.append(_lines(part, group, look[group], keep, faded))
        if stopped:
            crosses.append(_ends(stopped, group, look[group]))
    named: set[str] = set()
    for trace in traces:
        trace.showlegend = trace.legendgroup not in named
        named.add(trace.legendgroup)
    chart = figure(*traces, *crosses, height=460, says=_says(curves, y), x=AXES[x], y=y)
    chart.update_layout(hovermode="closest", showlegend=len(groups) <= MAX_NAMED)
    chart.update_yaxes(range=late_range(curves))
    if x == "tokens":
        chart.update_xaxes(tickformat="~s")
    return chart


def late_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Of all values but those of the first fifth, where every curve falls steeply.

    A double click on the chart shows the rest.
    """
    longest = max((float(curve.x_P[-1]) for curve in curves), default=0.0)
    late = np.concatenate(
        [curve.y_P[curve.x_P >= longest / 5] for curve in curves] or [np.zeros(0)]
    )
    if not late.size or late.min() == late.max():
        return None
    margin = 0.05 * float(late.max() - late.min())
    return float(late.min()) - margin, float(late.max()) + margin


def _lines(curves: Sequence[Curve], group: str, look: Look, keep: int, faded: bool) -> go.Scatter:
    """Curves as one trace, parted by gaps; of long ones every `keep`th point and the last."""
    parts = [_thinned(curve, keep) for curve in curves]
    return go.Scatter(
        x=np.concatenate([part for part, _ in parts]).astype(np.float32),
        y=np.concatenate([part for _, part in parts]).astype(np.float32),
        mode="lines",
        name=group,
        legendgroup=group,
        line={"color": look.colour, "width": 1.2 if faded else 1.7, "dash": look.dash},
        opacity=0.3 if faded else 0.9,
        hovertemplate=f"%{{x:,}}: <b>%{{y:.4f}}</b><extra>{group}</extra>",
    )


def _ends(curves: Sequence[Curve], group: str, look: Look) -> go.Scatter:
    """Where trials were stopped, with the reason."""
    return go.Scatter(
        x=[float(curve.x_P[-1]) for curve in curves],
        y=[float(curve.y_P[-1]) for curve in curves],
        text=[f"{curve.name}<br>{curve.ended}" for curve in curves],
        mode="markers",
        name=group,
        legendgroup=group,
        showlegend=False,
        marker={
            "color": look.colour,
            "symbol": "x",
            "size": 9,
            "line": {"width": 1.5, "color": LIGHT.ground},
        },
        hovertemplate="%{text}<extra></extra>",
    )


def _thinned(curve: Curve, keep: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    places = np.unique(np.append(np.arange(0, len(curve.x_P), keep), len(curve.x_P) - 1))
    return np.append(curve.x_P[places], np.nan), np.append(curve.y_P[places], np.nan)


def _every(points: int) -> int:
    return max(1, -(-points // MAX_POINTS))


def _says(curves: Sequence[Curve], y: str) -> str:
    stopped = sum(bool(curve.ended) for curve in curves)
    text = f"{y} of {len(curves)} trials while they train, {stopped} of them stopped early."
    going = [curve for curve in curves if len(curve.y_P)]
    if not going:
        return text
    best = min(going, key=lambda curve: float(curve.y_P[-1]))
    return f"{text} Lowest at its end: {best.name}, {best.y_P[-1]:.3f}."
