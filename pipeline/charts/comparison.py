"""Charts of several runs, which may have different sizes.

Shape suffixes: B bins of time, E experts.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.charts.lines import Line, level, line_chart
from evenload.pipeline.charts.style import CATEGORIES, DASHED, DOTTED, SOLID, Chart


class RunCurve(NamedTuple):
    x_B: NDArray[np.float64]
    y_B: NDArray[np.float32]
    level: float = float("nan")  # for comparison, e.g. the floor


def run_curves(runs: Mapping[str, RunCurve], x: str, y: str) -> Chart:
    """One line per run over time. Its level is a dotted line of the same colour."""
    lines = []
    for place, (name, curve) in enumerate(runs.items()):
        lines.append(_line(place, name, curve.x_B, curve.y_B))
        for floor in level(curve.x_B, curve.level, f"floor of {name}"):
            lines.append(floor._replace(colour=lines[-1].colour, dash=DOTTED, in_legend=False))
    ends = (f"{name} {curve.y_B[-1]:.3g}" for name, curve in runs.items() if len(curve.y_B))
    description = f"{y} of {len(runs)} runs. At the end: {'; '.join(ends)}."
    return line_chart(lines, x, y, description, 360, x_number="~s")


def load_by_rank(sorted_percent: Mapping[str, NDArray[np.int16]]) -> Chart:
    """One line per run: the loads of its experts, busiest first, over the share of the experts.

    Args:     sorted_percent: by run, mean over layers of the loads by rank, (E,)
    """
    lines = []
    for place, (name, percent_E) in enumerate(sorted_percent.items()):
        share_E = 100 * np.arange(len(percent_E) + 1) / len(percent_E)
        lines.append(_line(place, name, share_E, np.append(percent_E, percent_E[-1:]) / 100))
    lines += level(np.array([0.0, 100.0]), 1.0, "fair share")
    peaks = (f"{n} {percent_E.max() / 100:.2f}" for n, percent_E in sorted_percent.items())
    busiest = f"Busiest expert, times its fair share: {'; '.join(peaks)}."
    x, y = "share of the layer's experts, busiest first, %", "load / fair share"
    text = f"Load of experts by rank. {busiest}"
    return line_chart(
        lines, x, y, text, 380, number=".2f", x_number=".3~g", from_zero=True, holds=True
    )


def _line(place: int, name: str, x_P: NDArray[Any], y_P: NDArray[Any]) -> Line:
    """The first four runs have solid lines, the next four dashed ones."""
    colour = CATEGORIES[place % len(CATEGORIES)]
    return Line(name, x_P, y_P, colour, SOLID if place < 4 else DASHED)
