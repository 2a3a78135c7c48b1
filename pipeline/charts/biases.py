"""Selection biases over time: where each expert's goes, and how far they drift.

Shape suffixes: B bins of time, L expert layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.charts.lines import Line, layer_lines, line_chart
from evenload.pipeline.charts.style import LOW_TO_HIGH, Chart, ramp

MAX_LINES = 64
STEP = "optimizer step"


def bias_paths(bias_BE: NDArray[np.float32], step_B: NDArray[np.int32]) -> Chart:
    """Bias of each expert over time; of many experts `MAX_LINES`, evenly spread by final rank."""
    E = bias_BE.shape[-1]
    order_E = np.argsort(bias_BE[-1]) if len(bias_BE) else np.arange(E)
    ranks = np.unique(np.linspace(0, E - 1, min(MAX_LINES, E)).astype(int))
    colours, ends = ramp(LOW_TO_HIGH, len(ranks)), {order_E[0], order_E[-1]}
    lines = [
        Line(f"expert {expert}", step_B, bias_BE[:, expert], colour, in_legend=expert in ends)
        for expert, colour in zip(order_E[ranks], colours, strict=True)
    ]
    title, says = "selection bias, score units", f"Selection biases of {E} experts over time. "
    if not len(bias_BE):
        return line_chart(lines, STEP, title, f"{says}Nothing is recorded yet.", 360)
    low, high = order_E[0], order_E[-1]
    says += (
        f"They end between {bias_BE[-1, low]:.4f} (expert {low}) "
        f"and {bias_BE[-1, high]:.4f} (expert {high})."
    )
    return line_chart(lines, STEP, title, says, 360, number=".4f")


def bias_drift(
    drift_BL: NDArray[np.float32], step_B: NDArray[np.int32], layers: Sequence[str]
) -> Chart:
    """How far a layer's biases move in a step; a rule that has settled moves little."""
    return _by_layer(drift_BL, step_B, layers, "bias drift", "score units per step")


def bias_spread(
    spread_BL: NDArray[np.float32], step_B: NDArray[np.int32], layers: Sequence[str]
) -> Chart:
    """Largest minus smallest bias of a layer: how much help its experts need."""
    return _by_layer(spread_BL, step_B, layers, "bias spread", "score units")


def _by_layer(
    value_BL: NDArray[np.float32],
    step_B: NDArray[np.int32],
    layers: Sequence[str],
    title: str,
    unit: str,
) -> Chart:
    end = f"At the end at most {value_BL[-1].max():.2g} {unit}." if len(value_BL) else ""
    lines, says = layer_lines(value_BL, step_B, layers), f"{title} of {len(layers)} layers. {end}"
    return line_chart(
        lines, STEP, f"{title}, {unit}", says.capitalize(), number=".3g", from_zero=True
    )
