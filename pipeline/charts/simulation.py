"""Charts of a simulation: imbalance, regret, descent of the dual, tie spectrum.

Shape suffixes: N steps, P points in time, E experts.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.charts.bars import column_chart
from evenload.pipeline.charts.lines import Line, level, line_chart
from evenload.pipeline.charts.style import BLUE, DOTTED, ORANGE, Chart, looks

GAP_POINTS = 8  # number of points in a running mean of the dual gap
MAX_POINTS = 400  # longer lines are pooled by their largest value
HEIGHT = 380


class RegretCurve(NamedTuple):
    step_P: NDArray[np.int32]
    regret_P: NDArray[np.float64]
    gap_P: NDArray[np.float64]  # dual minus that of the best fixed bias, mean since the last point
    fit_P: NDArray[np.float64]  # the fitted growth law
    law: str  # its name


def simulated_max_vio(vio_N: Mapping[str, NDArray[np.float32]], floor: float) -> Chart:
    """MaxVio of every rule over the steps, logarithmic, with the MaxVio of a fair router."""
    look = looks(list(vio_N))
    lines = [Line(rule, *pooled(values), *look[rule]) for rule, values in vio_N.items()]
    last = max((len(values) for values in vio_N.values()), default=1)
    ends = ", ".join(f"{rule} {values[-1]:.2f}" for rule, values in vio_N.items())
    lines += level(np.array([1, last], np.int32), floor, f"sampling floor {floor:.2g}")
    description = f"MaxVio over the steps. At the end: {ends}; sampling floor {floor:.3f}."
    title = "MaxVio (max load / fair share − 1)"
    return line_chart(lines, "step", title, description, HEIGHT, is_log=(False, True))


def regret_growth(curves: Mapping[str, RegretCurve]) -> Chart:
    """Regret of every rule and, dotted, the growth law with the best fit.

    Both axes are logarithmic, so that powers are straight lines, unless a rule ends below zero.
    """
    look, lines = looks(list(curves)), []
    is_log = all(curve.regret_P[-1] > 0 for curve in curves.values())
    for rule, curve in curves.items():
        shown_P, fit_P = (_positive(p) if is_log else p for p in (curve.regret_P, curve.fit_P))
        is_late_P = curve.step_P > curve.step_P[-1] / 10  # without the transient phase
        lines.append(Line(rule, curve.step_P, shown_P, *look[rule]))
        fit = (curve.step_P[is_late_P], fit_P[is_late_P], look[rule].colour, DOTTED)
        lines.append(Line(f"{rule}: {curve.law}", *fit, in_legend=False, is_level=True))
    parts = "; ".join(
        f"{rule} {curve.regret_P[-1]:.3g}, growing like {curve.law}"
        for rule, curve in curves.items()
    )
    description = f"Regret against the best fixed bias over the steps. {parts}."
    title, is_log_both = "regret, score units per token", (is_log, is_log)
    return line_chart(lines, "step", title, description, HEIGHT, number=".3g", is_log=is_log_both)


def dual_descent(curves: Mapping[str, RegretCurve]) -> Chart:
    """The dual minus its value at the best fixed bias, logarithmic.

    It is a running mean over at most GAP_POINTS, because single steps are noisy. Values at or below
    zero, which occur when the scores move, are not drawn.
    """
    look = looks(list(curves))
    lines = [
        Line(rule, curve.step_P, _positive(_running_mean(curve.gap_P)), *look[rule])
        for rule, curve in curves.items()
    ]
    parts = "; ".join(
        f"{rule} from {curve.gap_P[0]:.2g} to {curve.gap_P[-1]:.2g}"
        for rule, curve in curves.items()
    )
    description = f"Dual above the best fixed bias over the steps. {parts}."
    title = "dual gap, score units per token"
    return line_chart(lines, "step", title, description, HEIGHT, number=".2e", is_log=(False, True))


def tie_spectrum(value_E: NDArray[np.float64]) -> Chart:
    """The eigenvalues of the tie-density Laplacian, ascending, without the zero of the mean."""
    shown = value_E[1:]
    modulus, largest = float(shown[0]), float(shown[-1])
    description = (
        f"{len(shown)} eigenvalues of the tie-density Laplacian, from {modulus:.3g}, the "
        f"strong convexity, to {largest:.3g}, which limits the step to {2 / largest:.2g}."
    )
    names = [str(place) for place in range(1, len(shown) + 1)]
    colours, note = [ORANGE, *[BLUE] * (len(shown) - 1)], f"μ = {modulus:.3g}"
    x, y = "eigenvalue, ascending", "tokens that tie, share per unit of bias"
    return column_chart(
        names, shown, x, y, description, form=".3g", height=HEIGHT, colours=colours, note=note
    )


def pooled(value_N: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The first step and the largest value of each bin, with at most MAX_POINTS bins."""
    size = -(-len(value_N) // MAX_POINTS)
    start = np.arange(0, len(value_N), size)
    return (start + 1).astype(np.int32), np.maximum.reduceat(value_N, start)


def _positive(value_P: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(value_P > 0, value_P, np.nan)


def _running_mean(value_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last GAP_POINTS at every point."""
    sum_P = np.concatenate([[0.0], np.cumsum(value_P)])
    end_P = np.arange(1, len(value_P) + 1)
    start_P = np.maximum(end_P - GAP_POINTS, 0)
    return (sum_P[end_P] - sum_P[start_P]) / (end_P - start_P)
