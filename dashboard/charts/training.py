"""Loss and speed over time.

Shape suffixes: B bins of time.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from evenload.dashboard.charts.style import LIGHT, figure, line


def loss_curve(
    loss_B: NDArray[np.float32], loss_max_B: NDArray[np.float32], step_B: NDArray[np.int32]
) -> go.Figure:
    """Mean training loss of each bin with its largest value as a thin line above."""
    lines = [line(step_B, loss_B, LIGHT.blue, "training loss", "%{y:.3f}", 2)]
    if len(step_B) and not np.array_equal(loss_B, loss_max_B):
        lines.insert(0, line(step_B, loss_max_B, LIGHT.faint, "largest in bin", "%{y:.3f}", 1))
    says = _ends("Training loss", loss_B, "nats per token", 3)
    return figure(*lines, height=300, says=says, x="optimizer step", y="loss, nats per token")


def throughput_curve(rate_B: NDArray[np.float32], step_B: NDArray[np.int32]) -> go.Figure:
    """Tokens per second of each bin."""
    chart = figure(
        line(step_B, rate_B, LIGHT.green, "throughput", "%{y:,.0f} tokens/s", 2),
        height=300,
        says=_ends("Throughput", rate_B, "tokens per second", 0),
        x="optimizer step",
        y="tokens per second",
    )
    chart.update_yaxes(rangemode="tozero", tickformat="~s")
    return chart


def gradient_norm_curve(norm_B: NDArray[np.float32], step_B: NDArray[np.int32]) -> go.Figure:
    """Largest gradient norm of each bin, before clipping."""
    return figure(
        line(step_B, norm_B, LIGHT.orange, "gradient norm", "%{y:.3g}", 2),
        height=300,
        says=_ends("Gradient norm", norm_B, "", 2),
        x="optimizer step",
        y="gradient norm, before clipping",
    )


def learning_rate_curve(rate_B: NDArray[np.float32], step_B: NDArray[np.int32]) -> go.Figure:
    """Learning rate at the end of each bin."""
    chart = figure(
        line(step_B, rate_B, LIGHT.blue, "learning rate", "%{y:.3g}", 2),
        height=300,
        says=_ends("Learning rate", rate_B, "", 6),
        x="optimizer step",
        y="learning rate",
    )
    chart.update_yaxes(rangemode="tozero", exponentformat="power")
    return chart


def _ends(name: str, value_B: NDArray[np.float32], unit: str, decimals: int) -> str:
    """First, last and extreme values of a curve in words."""
    finite = value_B[np.isfinite(value_B)]
    if not finite.size:
        return f"{name} over time. Nothing is recorded yet."
    first, last, low, high = (
        f"{value:,.{decimals}f}" for value in (finite[0], finite[-1], finite.min(), finite.max())
    )
    return f"{name} over time: from {first} to {last} {unit}; lowest {low}, highest {high}."
