"""Figures of a sweep over the step size of one rule, and the range of steps that theory advises.

Letters: S steps, L expert layers, E experts.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Role = Literal["other", "tied in evenness", "most even so far", "named"]
COLD_START = 4  # biases may take one part in so many of the run to arrive


class StepFigure(NamedTuple):
    """A figure that is shown against the step size."""

    title: str  # with its unit
    number: str  # d3 format
    is_log: bool = False
    floor: float = math.nan  # its value by chance


FIGURES: dict[str, StepFigure] = {
    "loss": StepFigure("validation loss, bits per byte", ".3f"),
    "over_floor": StepFigure("MaxVio over its floor", ".2f", is_log=True, floor=1.0),
    "idle": StepFigure("idle experts, %", ".1f"),
}


class StepPoint(NamedTuple):
    """A figure of one setting: its mean over seeds and its 95 % interval; NaN for one seed."""

    step: float
    mean: float
    low: float
    high: float
    seeds: int
    role: Role = "other"
    digest: str = ""  # of the run that a click opens


class StepCurve(NamedTuple):
    """A figure of one rule at one place, by step size."""

    rule: str  # its label without the step size
    place: str
    points: tuple[StepPoint, ...]


class Motion(NamedTuple):
    """How far the biases of a run went, and how fast they moved at its end, in score units."""

    reach: float  # largest distance of a bias from the mean of its layer
    pace: float  # mean move of a bias in one step


def motion(bias_SLE: NDArray[np.float32]) -> Motion | None:
    """The motion over the last steps of a run; None with fewer than two steps."""
    if len(bias_SLE) < 2:
        return None
    last_LE = bias_SLE[-1] - bias_SLE[-1].mean(axis=-1, keepdims=True)
    return Motion(float(abs(last_LE).max()), float(abs(np.diff(bias_SLE, axis=0)).mean()))


def advised_sign_steps(reach: float, pace: float, steps: int) -> tuple[float, float]:
    """The constant steps of the sign rule that theory advises for a run of `steps` steps.

    One end is the step that arrives in a quarter of the run. The other is the steadiest step: for
    normal errors its gain near balance is that of a rule that sets its own gain and moves a bias by
    `pace` in a step. Without such a rule (NaN) both ends are the first one. It is the advice of
    `evenload advise`, from recorded biases in place of scores.
    """
    arriving = COLD_START * reach / steps
    steadiest = arriving if math.isnan(pace) else math.pi / 2 * pace
    return min(arriving, steadiest), max(arriving, steadiest)
