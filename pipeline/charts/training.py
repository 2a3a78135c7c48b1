"""Loss and speed of a training run over time, and what it took of its machine.

Shape suffixes: B bins of time, N samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.charts.lines import Line, line_chart
from evenload.pipeline.charts.style import BLUE, FAINT, GREEN, ORANGE, Chart

MAX_POINTS = 400
STEP = "optimizer step"

Values = NDArray[np.floating[Any]]
Steps = NDArray[np.int32]


def loss_curve(loss_B: Values, loss_max_B: Values, step_B: Steps) -> Chart:
    """Mean training loss of each bin, with its largest value as a faint line above."""
    lines = [Line("training loss", step_B, loss_B, BLUE)]
    if len(step_B) and not np.array_equal(loss_B, loss_max_B):
        lines.insert(0, Line("largest in bin", step_B, loss_max_B, FAINT))
    says = _says("Training loss", loss_B, " nats per token", 3)
    return line_chart(lines, STEP, "loss, nats per token", says)


def throughput_curve(rate_B: Values, step_B: Steps) -> Chart:
    """Tokens per second of each bin."""
    lines, says = [Line("throughput", step_B, rate_B, GREEN)], _says("Throughput", rate_B, "", 0)
    return line_chart(lines, STEP, "tokens per second", says, number=",.0f", from_zero=True)


def gradient_norm_curve(norm_B: Values, step_B: Steps) -> Chart:
    """Largest gradient norm of each bin, before clipping."""
    lines, says = [Line("norm", step_B, norm_B, ORANGE)], _says("Gradient norm", norm_B, "", 2)
    return line_chart(lines, STEP, "gradient norm, before clipping", says, number=".3g")


def learning_rate_curve(rate_B: Values, step_B: Steps) -> Chart:
    """Learning rate at the end of each bin."""
    lines, says = [Line("rate", step_B, rate_B, BLUE)], _says("Learning rate", rate_B, "", 6)
    return line_chart(lines, STEP, "learning rate", says, number=".3g", from_zero=True)


def resource_curve(value_N: Values, step_N: Values, title: str, unit: str) -> Chart:
    """One resource of the machine over the steps; of many samples the largest of neighbours."""
    says = f"{title} over time: mean {value_N.mean():,.1f}, at most {value_N.max():,.1f} {unit}."
    lines = [Line(title, _pooled(step_N).astype(np.int32), _pooled(value_N), BLUE)]
    return line_chart(lines, STEP, unit, says, 260, number=",.1f", from_zero=True)


def _pooled(value_N: Values) -> Values:
    """At most MAX_POINTS values: the largest of equal shares of the samples."""
    first = np.unique(np.linspace(0, len(value_N), MAX_POINTS, endpoint=False).astype(int))
    return np.maximum.reduceat(value_N, first) if len(value_N) > MAX_POINTS else value_N


def _says(name: str, value_B: Values, unit: str, decimals: int) -> str:
    """First, last and extreme values of a curve in words."""
    finite = value_B[np.isfinite(value_B)]
    if not finite.size:
        return f"{name} over time. Nothing is recorded yet."
    first, last, low, high = (
        f"{value:,.{decimals}f}" for value in (finite[0], finite[-1], finite.min(), finite.max())
    )
    return f"{name} over time: from {first} to {last}{unit}; lowest {low}, highest {high}."
