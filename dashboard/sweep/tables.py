"""Tables, curves and axes for the views of a sweep's page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from evenload.dashboard.record_tables import figure, why_failed
from evenload.dashboard.sweep.parameters import ABSENT, Parameter
from evenload.pipeline.charts.front import Pair, Point, Role
from evenload.pipeline.charts.learning_curves import TrialCurve, Unit
from evenload.pipeline.charts.parameters import ParallelAxis
from evenload.pipeline.figures.loss_unit import LossUnit
from evenload.pipeline.figures.metrics import columns, in_grids
from evenload.pipeline.states import CurvePoint, TrialRecord, TrialState
from evenload.pipeline.sweep.answer import Answer
from evenload.pipeline.sweep.axes import Axes
from evenload.pipeline.sweep.places import PlaceAnswer
from evenload.pipeline.sweep.setting import IMBALANCE, LOSS, Setting, Verdict
from evenload.pipeline.sweep.statistics import Interval

Shown = Literal["val_loss", "max_vio"]
Figure = Literal["loss", "imbalance"]
MAX_LEVELS = 7  # numbers with more levels have an axis of numbers, not of names
ENDED = (TrialState.STOPPED, TrialState.FAILED, TrialState.CANCELLED)


def outcomes(unit: LossUnit) -> dict[str, str]:
    """The figures whose dependence on parameters is shown: metric name -> title."""
    named = {metric.name: metric.head + (", %" if metric.is_share else "") for metric in in_grids()}
    return named | {LOSS: unit.head}


def learning_curves(
    trials: Sequence[TrialRecord],
    curves: Mapping[str, Sequence[CurvePoint]],
    x: Unit,
    y: Shown,
    axes: Axes,
) -> list[TrialCurve]:
    """The curves of trials that have one, in sweep order."""
    return [
        TrialCurve(
            axes.name(trial),
            trial.label,
            np.array([point.step if x == "steps" else point.tokens for point in points], float),
            np.array([getattr(point, y) for point in points], float),
            why_ended(trial),
            trial.digest,
        )
        for trial in trials
        if (points := curves.get(trial.digest))
    ]


def why_ended(trial: TrialRecord) -> str:
    """Why a trial did not train to its end; empty if it did or still may."""
    if trial.state not in ENDED:
        return ""
    if trial.state is TrialState.FAILED:
        return f"failed: {why_failed(trial)}"
    return f"{trial.state}: {trial.stop_reason or 'by a user'}"


def ended_table(trials: Sequence[TrialRecord], axes: Axes) -> pd.DataFrame:
    """One row per trial that did not train to its end, with step and reason."""
    rows = [
        {
            "digest": trial.digest,
            "Trial": axes.name(trial),
            "At step": trial.progress.step if trial.progress else 0,
            "Of": int(trial.spec["train"]["steps"]),
            "Why": why_ended(trial),
        }
        for trial in trials
        if trial.state in ENDED
    ]
    return pd.DataFrame(rows, columns=["digest", "Trial", "At step", "Of", "Why"])


def axes(
    trials: Sequence[TrialRecord], parameters: Sequence[Parameter], unit: LossUnit
) -> list[ParallelAxis]:
    """The parameters that vary, then the outcomes that some trial has."""
    reached = [
        ParallelAxis(
            title,
            [None if math.isnan(value := figure(trial, name, unit)) else value for trial in trials],
        )
        for name, title in outcomes(unit).items()
        if any(name in trial.result for trial in trials)
    ]
    return [*map(_parameter_axis, parameters), *reached]


def front_points(answer: Answer, place: PlaceAnswer) -> list[Point]:
    """The settings at a place and, where fresh seeds confirmed them, those of the search there."""
    usual: Role = "fresh seeds" if answer.is_confirmed else "settings"
    found = [_point(s, "search") for s in answer.tuned if s.place == place.place]
    for setting in place.settings:
        role: Role = "controls" if setting.is_yardstick else usual
        if setting.verdict is Verdict.NAMED:
            role = "recommended"
        # The front is that of the search, where there was one: it has all settings.
        point = _point(setting, role)
        found.append(point._replace(on_front=point.on_front and not answer.is_confirmed))
    return found


def _point(setting: Setting, role: Role) -> Point:
    return Point(
        setting.label,
        role,
        setting.max_vio,
        setting.mean_loss,
        _half(setting.imbalance),
        _half(setting.loss),
        setting.on_front,
        setting.figures["max_vio_floor"],
        100 * setting.figures["idle_frac"],
        100 * setting.figures["effective_util"],
        setting.seeds,
        setting.is_yardstick,
        digest=setting.digest,
    )


def _parameter_axis(parameter: Parameter) -> ParallelAxis:
    """Levels in order, by name; of a number with many levels the numbers."""
    values, levels = parameter.values, parameter.levels
    if parameter.is_number and len(levels) > MAX_LEVELS:
        numbers = [None if value == ABSENT else float(value) for value in values]
        return ParallelAxis(parameter.name, numbers)
    return ParallelAxis(parameter.name, [*map(_text, values)], [*map(_text, levels)])


def _text(level: Any) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)


def setting_table(answer: Answer) -> pd.DataFrame:
    """One row per place and setting, most even first; ± is half the 95 % interval over seeds."""
    rows = [
        {
            "place": setting.place,
            "setting": setting.label,
            "verdict": setting.remark,
            **_figures(setting),
            "above_best": setting.above_best,
            "against_none": setting.against_none.mean if setting.against_none else math.nan,
            "against_none_half": _half(setting.against_none) if setting.against_none else math.nan,
            "over_floor": setting.over_floor,
            "seeds": setting.seeds,
        }
        for setting in answer.settings
    ]
    return pd.DataFrame(rows)


def _figures(setting: Setting) -> dict[str, float]:
    """The figures with shares in percent, and half the interval of the two that are compared."""
    halves = {LOSS: _half(setting.loss), IMBALANCE: _half(setting.imbalance)}
    found: dict[str, float] = {}
    for metric in columns():
        found[metric.name] = setting.figures[metric.name] * (100 if metric.is_share else 1)
        if metric.name in halves:
            found[f"{metric.name}_half"] = halves[metric.name]
    return found


def confirmations(answer: Answer, shown: Figure) -> list[Pair]:
    """Settings that were tuned and confirmed, in the order of their confirmed figure."""
    tuned = {setting.name: setting for setting in answer.tuned}
    pairs = [
        _pair(tuned[setting.name], setting, shown)
        for setting in answer.settings
        if setting.name in tuned
    ]
    return sorted(pairs, key=lambda pair: pair.confirmed)


def _pair(tuned: Setting, confirmed: Setting, shown: Figure) -> Pair:
    first, then = _of(tuned, shown), _of(confirmed, shown)
    return Pair(confirmed.name, first.mean, _half(first), then.mean, _half(then), then.seeds)


def _of(setting: Setting, shown: Figure) -> Interval:
    return setting.loss if shown == "loss" else setting.imbalance


def _half(found: Interval) -> float:
    return math.nan if found.half is None else found.half
