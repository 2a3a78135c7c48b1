"""Turns the document of a simulation into tables and curves.

Shape suffixes: P points in time, E experts.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evenload.pipeline.charts.simulation import RegretCurve

Document = dict[str, Any]
NEVER = "never"

# The growth laws that `evenload.workers.simulation.regret` fits, by their names there.
LAWS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "a constant": np.zeros_like,
    "log N": np.log,
    "sqrt N": np.sqrt,
    "N": np.positive,
}


def streams_of(document: Document) -> list[str]:
    return list(document["spec"]["streams"])


def row_table(document: Document, stream: str) -> pd.DataFrame:
    """One row per rule: steady MaxVio with its error, the floor, idle share, steps to balance."""
    table = pd.DataFrame([row for row in document["rows"] if row["stream"] == stream])
    figures = ["max_vio", "max_vio_error", "ratio", "idle_frac"]
    table[figures] = table[figures].astype(float)  # None becomes NaN
    return table.assign(
        idle=100 * table.idle_frac,
        to_balance=table.steps_to_balance.map(_steps),
        recovery=table.recovery_steps.map(_steps),
    )


def floor_of(document: Document, stream: str) -> float:
    return next(float(row["floor"]) for row in document["rows"] if row["stream"] == stream)


def has_jump(document: Document, stream: str) -> bool:
    return document["spec"]["streams"][stream].get("jump_at") is not None


def regret_curves(document: Document, stream: str) -> dict[str, RegretCurve]:
    """The curves by rule; empty if the theory was not tested."""
    return {
        finding["rule"]: _curve(finding["regret"])
        for finding in document["theory"]
        if finding["stream"] == stream
    }


def spectrum_E(document: Document, stream: str) -> NDArray[np.float64] | None:
    """The eigenvalues at the best fixed bias, which is the same for all rules of a stream."""
    for finding in document["theory"]:
        if finding["stream"] == stream:
            return np.array(finding["regret"]["spectrum"])
    return None


def verdict_table(document: Document, stream: str, rule: str) -> pd.DataFrame:
    """One row per statement of the theory for one rule, and a last row for the regret."""
    finding = next(
        found for found in document["theory"] if (found["stream"], found["rule"]) == (stream, rule)
    )
    rows = [(v["statement"], v["finding"], v["figure"]) for v in finding["verdicts"]]
    regret = finding["regret"]
    grows = f"{regret['regret']:.3g}, like {regret['growth']}"
    rows.append(("regret against the best fixed bias", grows, regret["finding"]))
    return pd.DataFrame(rows, columns=["Statement", "Finding", "Number that decides"])


def _curve(regret: dict[str, Any]) -> RegretCurve:
    points = regret["curve"]
    step_P = np.array(points["step"], np.int32)
    fit_P = regret["fit_level"] + regret["fit_slope"] * LAWS[regret["growth"]](
        step_P.astype(np.float64)
    )
    return RegretCurve(
        step_P, np.array(points["regret"]), np.array(points["dual_gap"]), fit_P, regret["growth"]
    )


def _steps(value: float | None) -> str:
    return NEVER if pd.isna(value) else f"{value:,.0f}"
