"""Charts of one run over time: balance, biases, training and resources.

Shape suffixes: B bins of time, L expert layers, E experts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.charts.lines import Line, layer_lines, level, line_chart
from evenload.pipeline.charts.style import BLUE, FAINT, LOW_TO_HIGH, Chart, ramp

STEP = "optimizer step"
MAX_BIASES = 64  # number of experts in one chart
MAX_POINTS = 400

Values = NDArray[Any]
Steps = NDArray[np.int32]


def max_vio_over_time(vio_BL: Values, step_B: Steps, layers: Sequence[str], floor: float) -> Chart:
    """MaxVio by layer, with the MaxVio of a fair router by chance."""
    chance = (floor, f"sampling floor {floor:.2g}")
    return by_layer(vio_BL, step_B, layers, "MaxVio (max load / fair share − 1)", chance=chance)


def idle_over_time(idle_BL: Values, step_B: Steps, layers: Sequence[str], expected: float) -> Chart:
    """Share of idle experts by layer; `expected` is the share with uniform random routing."""
    name = f"by chance {100 * expected:.2f} %" if expected > 5e-5 else "by chance none"
    chance = (100 * expected, name)
    return by_layer(100 * idle_BL, step_B, layers, "idle experts, %", ".1f", chance=chance)


def by_layer(
    value_BL: Values,
    step_B: Steps,
    layers: Sequence[str],
    title: str,
    number: str = ".3f",
    *,
    chance: tuple[float, str] | None = None,
    height: float = 340,
) -> Chart:
    """One line per layer, with an axis from zero.

    Args:     title: with the unit
              number: d3 format
              chance: a level for comparison and its name
    """
    lines = layer_lines(value_BL, step_B, layers) + (level(step_B, *chance) if chance else [])
    description = f"{title} of {len(layers)} layers over time."
    if not len(value_BL):
        description += " Nothing is recorded yet."
    else:
        value_L = value_BL[-1].astype(float)
        low, high = int(value_L.argmin()), int(value_L.argmax())
        description += f" At the end {value_L[low]:.3g} in layer {layers[low]} "
        description += f"to {value_L[high]:.3g} in layer {layers[high]}."
    return line_chart(lines, STEP, title, description, height, number=number, from_zero=True)


def bias_paths(bias_BE: Values, step_B: Steps) -> Chart:
    """The bias of every expert, or of `MAX_BIASES` experts spread evenly over the final ranks."""
    E, title = bias_BE.shape[-1], "selection bias, score units"
    order_E = np.argsort(bias_BE[-1]) if len(bias_BE) else np.arange(E)
    ranks = np.unique(np.linspace(0, E - 1, min(MAX_BIASES, E)).astype(int))
    low, high = order_E[0], order_E[-1]
    lines = [
        Line(f"expert {e}", step_B, bias_BE[:, e], colour, in_legend=e in (low, high))
        for e, colour in zip(order_E[ranks], ramp(LOW_TO_HIGH, len(ranks)), strict=True)
    ]
    description = f"Selection biases of {E} experts over time. "
    if len(bias_BE):
        description += f"They end between {bias_BE[-1, low]:.4f} (expert {low}) "
        description += f"and {bias_BE[-1, high]:.4f} (expert {high})."
    else:
        description += "Nothing is recorded yet."
    return line_chart(lines, STEP, title, description, 360, number=".4f")


def loss_curve(
    loss_B: Values, loss_max_B: Values, step_B: Steps, title: str = "loss, nats per token"
) -> Chart:
    """Mean training loss of each bin, and its largest value as a faint line."""
    lines = [Line("training loss", step_B, loss_B, BLUE)]
    if len(step_B) and not np.array_equal(loss_B, loss_max_B):
        lines.insert(0, Line("largest in bin", step_B, loss_max_B, FAINT))
    return line_chart(lines, STEP, title, _description(title, loss_B, ",.3f"))


def single_curve(
    value_N: Values,
    step_N: Values,
    title: str,
    number: str,
    *,
    colour: str = BLUE,
    from_zero: bool = True,
    height: float = 300,
) -> Chart:
    """One line. Many points are pooled by their largest value.

    Args:     title: with the unit
              number: format for d3 and Python
    """
    first = np.unique(np.linspace(0, len(value_N), MAX_POINTS, endpoint=False).astype(int))
    if len(value_N) > MAX_POINTS:
        value_N, step_N = (np.maximum.reduceat(part_N, first) for part_N in (value_N, step_N))
    lines, description = (
        [Line(title, step_N.astype(np.int32), value_N, colour)],
        _description(title, value_N, number),
    )
    return line_chart(lines, STEP, title, description, height, number=number, from_zero=from_zero)


def _description(title: str, value_N: Values, number: str) -> str:
    """A sentence with the first, last and extreme values."""
    finite = value_N[np.isfinite(value_N)]
    if not finite.size:
        return f"{title} over time. Nothing is recorded yet."
    values = (finite[0], finite[-1], finite.min(), finite.max())
    first, last, low, high = (format(float(value), number) for value in values)
    return f"{title} over time: from {first} to {last}; lowest {low}, highest {high}."
