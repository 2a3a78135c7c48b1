"""What a simulation showed: imbalance, regret with its law, the dual's descent, the tie spectrum.

Shape suffixes: N steps, P points in time, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from evenload.dashboard.charts.line_styles import Look, looks
from evenload.dashboard.charts.log_axis import make_logarithmic
from evenload.dashboard.charts.style import LIGHT, add_level, figure
from evenload.dashboard.theory.tables import RegretCurve

GAP_POINTS = 8  # that a point of the dual's descent averages
MAX_POINTS = 400  # of a line; more steps are pooled by their largest value


def simulated_max_vio(vio_N: Mapping[str, NDArray[np.float32]], floor: float) -> go.Figure:
    """MaxVio of every rule over the steps, logarithmic, beside what a fair coin shows."""
    colours = looks(list(vio_N))
    lines, last = [], 1
    for rule, values in vio_N.items():
        step_P, pooled_P = pooled(values)
        last = max(last, len(values))
        lines.append(_line(rule, step_P, pooled_P, colours[rule], "%{y:.3f}"))
    ends = ", ".join(f"{rule} {values[-1]:.2f}" for rule, values in vio_N.items())
    chart = figure(
        *lines,
        height=380,
        says=f"MaxVio over the steps. At the end: {ends}; sampling floor {floor:.3f}.",
        x="step",
        y="MaxVio (max load / fair share − 1)",
    )
    add_level(chart, np.array([1, last], np.int32), floor, f"sampling floor {floor:.2g}")
    make_logarithmic(chart, "y", [floor, *(float(v) for line in lines for v in line.y)])
    return chart


def regret_growth(curves: Mapping[str, RegretCurve]) -> go.Figure:
    """Regret of every rule and, dotted, the law that fits it best.

    Both axes are logarithmic, so that a power is a straight line, unless a rule ends below zero.
    """
    colours, lines = looks(list(curves)), []
    is_log = all(curve.regret_P[-1] > 0 for curve in curves.values())
    for rule, curve in curves.items():
        shown_P, fit_P = (
            _positive(value_P) if is_log else value_P for value_P in (curve.regret_P, curve.fit_P)
        )
        fitted_P = curve.step_P > curve.step_P[-1] / 10  # the way to the optimum is left out
        lines.append(_line(rule, curve.step_P, shown_P, colours[rule], "%{y:.3g}"))
        fit = go.Scatter(
            x=curve.step_P[fitted_P],
            y=fit_P[fitted_P],
            mode="lines",
            name=f"{rule}: {curve.law}",
            line={"color": colours[rule].colour, "width": 1.2, "dash": "dot"},
            showlegend=False,
            hoverinfo="skip",
        )
        lines.append(fit)
    told = "; ".join(
        f"{rule} {curve.regret_P[-1]:.3g}, growing like {curve.law}"
        for rule, curve in curves.items()
    )
    chart = figure(
        *lines,
        height=380,
        says=f"Regret against the best fixed bias over the steps. {told}.",
        x="step",
        y="regret, score units per token",
    )
    if is_log:
        make_logarithmic(chart, "x", [1.0, float(max(c.step_P[-1] for c in curves.values()))])
        make_logarithmic(chart, "y", [float(v) for c in curves.values() for v in c.regret_P])
    return chart


def dual_descent(curves: Mapping[str, RegretCurve]) -> go.Figure:
    """How far the dual lies above its value at the best fixed bias, logarithmic.

    A running mean over GAP_POINTS, from as many as there are: a step of few tokens tells little.
    Where a rule is below that bias, because scores moved, there is nothing to draw.
    """
    colours = looks(list(curves))
    lines = [
        _line(
            rule,
            curve.step_P,
            _positive(_running_mean(curve.gap_P)),
            colours[rule],
            "%{y:.2e}",
        )
        for rule, curve in curves.items()
    ]
    told = "; ".join(
        f"{rule} from {curve.gap_P[0]:.2g} to {curve.gap_P[-1]:.2g}"
        for rule, curve in curves.items()
    )
    chart = figure(
        *lines,
        height=380,
        says=f"Dual above the best fixed bias over the steps. {told}.",
        x="step",
        y="dual gap, score units per token",
    )
    make_logarithmic(chart, "y", [float(value) for line in lines for value in line.y])
    return chart


def tie_spectrum(value_E: NDArray[np.float64]) -> go.Figure:
    """Eigenvalues of the tie-density Laplacian but the zero of the mean, ascending."""
    shown = value_E[1:]
    modulus, largest = float(shown[0]), float(shown[-1])
    bars = go.Bar(
        x=np.arange(1, len(shown) + 1),
        y=shown,
        marker={"color": [LIGHT.orange, *[LIGHT.blue] * (len(shown) - 1)], "line": {"width": 0}},
        hovertemplate="eigenvalue %{x}: <b>%{y:.3g}</b><extra></extra>",
        name="eigenvalue",
    )
    chart = figure(
        bars,
        height=380,
        says=f"{len(shown)} eigenvalues of the tie-density Laplacian, from {modulus:.3g}, the "
        f"strong convexity, to {largest:.3g}, which limits the step to {2 / largest:.2g}.",
        x="eigenvalue, ascending",
        y="tokens that tie, share per unit of bias",
    )
    chart.update_layout(bargap=0.15)
    chart.add_annotation(
        x=1,
        y=modulus,
        text=f"μ = {modulus:.3g}",
        showarrow=True,
        arrowcolor=LIGHT.muted,
        ax=24,
        ay=-36,
        xanchor="left",
        font={"color": LIGHT.ink, "size": 13},
    )
    return chart


def pooled(value_N: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """First step and largest value of at most MAX_POINTS bins."""
    size = -(-len(value_N) // MAX_POINTS)
    start = np.arange(0, len(value_N), size)
    return (start + 1).astype(np.int32), np.maximum.reduceat(value_N, start)


def _positive(value_P: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(value_P > 0, value_P, np.nan)


def _running_mean(value_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last GAP_POINTS."""
    sum_P = np.concatenate([[0.0], np.cumsum(value_P)])
    end_P = np.arange(1, len(value_P) + 1)
    start_P = np.maximum(end_P - GAP_POINTS, 0)
    return (sum_P[end_P] - sum_P[start_P]) / (end_P - start_P)


def _line(
    rule: str, x: NDArray[np.int32], y: NDArray[np.floating], look: Look, hover: str
) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        name=rule,
        line={"color": look.colour, "width": 2, "dash": look.dash},
        hovertemplate=f"<b>{hover}</b><extra>{rule}</extra>",
    )
