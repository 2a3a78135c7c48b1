"""Tables, curves and axes for the views of a sweep's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from evenload.dashboard.record_tables import figure, label_of
from evenload.dashboard.sweep.importance import ABSENT, Parameter
from evenload.pipeline.charts.front import Pair, Point, Role
from evenload.pipeline.charts.learning_curves import TrialCurve, Unit
from evenload.pipeline.charts.parameters import ParallelAxis
from evenload.pipeline.figures.metrics import columns, in_grids
from evenload.pipeline.states import CurvePoint, Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.recommend import Recommendation
from evenload.pipeline.sweep.setting import IMBALANCE, LOSS, Setting
from evenload.pipeline.sweep.statistics import Interval

Shown = Literal["val_loss", "max_vio"]
Figure = Literal["loss", "imbalance"]
MAX_LEVELS = 7  # numbers with more levels have an axis of numbers, not of names
ENDED = (TrialState.STOPPED, TrialState.FAILED, TrialState.CANCELLED)


def outcomes() -> dict[str, str]:
    """The figures whose dependence on parameters is shown: metric name -> title."""
    return {metric.name: metric.head + (", %" if metric.is_share else "") for metric in in_grids()}


def learning_curves(
    trials: Sequence[TrialRecord],
    curves: Mapping[str, Sequence[CurvePoint]],
    x: Unit,
    y: Shown,
) -> list[TrialCurve]:
    """The curves of trials that have one, in sweep order."""
    return [
        TrialCurve(
            f"{label_of(trial)}, seed {trial.spec['train']['seed']}",
            trial.label,
            np.array([point.step if x == "steps" else point.tokens for point in points], float),
            np.array([getattr(point, y) for point in points], float),
            why_ended(trial),
        )
        for trial in trials
        if (points := curves.get(trial.digest))
    ]


def why_ended(trial: TrialRecord) -> str:
    """Why a trial did not train to its end; empty if it did or still may."""
    if trial.state not in ENDED:
        return ""
    if trial.state is TrialState.FAILED:
        last = (trial.error or "no traceback was recorded").strip().splitlines()[-1]
        return f"failed: {last}"
    return f"{trial.state}: {trial.stop_reason or 'by a user'}"


def ended_table(trials: Sequence[TrialRecord]) -> pd.DataFrame:
    """One row per trial that did not train to its end, with step and reason."""
    rows = [
        {
            "digest": trial.digest,
            "Trial": f"{label_of(trial)}, seed {trial.spec['train']['seed']}",
            "At step": trial.progress.step if trial.progress else 0,
            "Of": int(trial.spec["train"]["steps"]),
            "Why": why_ended(trial),
        }
        for trial in trials
        if trial.state in ENDED
    ]
    return pd.DataFrame(rows, columns=["digest", "Trial", "At step", "Of", "Why"])


def axes(trials: Sequence[TrialRecord], parameters: Sequence[Parameter]) -> list[ParallelAxis]:
    """The parameters that vary, then the outcomes that some trial has."""
    reached = [
        ParallelAxis(title, [_or_none(figure(trial, name)) for trial in trials])
        for name, title in outcomes().items()
        if any(name in trial.result for trial in trials)
    ]
    return [*map(_parameter_axis, parameters), *reached]


def front_points(answer: Recommendation) -> list[Point]:
    """The settings of the answer and, where fresh seeds confirmed them, those of the search."""
    is_confirmed = answer.stage is Stage.CONFIRM
    best = answer.best.label if answer.best else None
    usual: Role = "fresh seeds" if is_confirmed else "settings"
    found = [_point(setting, "search") for setting in answer.tuned] if is_confirmed else []
    for setting in answer.settings:
        role: Role = "controls" if setting.is_yardstick else usual
        point = _point(setting, "recommended" if setting.label == best else role)
        # The front is that of the search, where there was one: it has all settings.
        found.append(point._replace(on_front=point.on_front and not is_confirmed))
    return found


def _point(setting: Setting, role: Role) -> Point:
    return Point(
        setting.label,
        role,
        setting.max_vio,
        setting.bits_per_byte,
        _half(setting.imbalance),
        _half(setting.loss),
        setting.on_front,
        setting.figures["max_vio_floor"],
        100 * setting.figures["idle_frac"],
        100 * setting.figures["effective_util"],
        setting.trials,
        setting.is_yardstick,
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


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def setting_table(answer: Recommendation) -> pd.DataFrame:
    """One row per complete setting, most even first; ± is half the 95 % interval over seeds."""
    against = {found.label: found.loss for found in answer.comparisons}
    rows = [
        {
            "setting": setting.label,
            "verdict": verdict(setting, answer),
            **_figures(setting),
            "against_none": against[setting.label].mean if setting.label in against else math.nan,
            "trials": setting.trials,
        }
        for setting in answer.settings
    ]
    return pd.DataFrame(rows)


def _figures(setting: Setting) -> dict[str, float]:
    """The figures with shares in percent, and half the interval of the two ranking figures."""
    halves = {LOSS: _half(setting.loss), IMBALANCE: _half(setting.imbalance)}
    found: dict[str, float] = {}
    for metric in columns():
        found[metric.name] = setting.figures[metric.name] * (100 if metric.is_share else 1)
        if metric.name in halves:
            found[f"{metric.name}_half"] = halves[metric.name]
    return found


def verdict(setting: Setting, answer: Recommendation) -> str:
    """Why a setting is recommended or not, in a few words."""
    best = answer.best
    if best is not None and setting.label == best.label:
        return "recommended"
    if setting.is_yardstick:
        return "yardstick, never recommended"
    if setting.violates:
        return "; ".join(setting.violates)
    if best is None:
        return ""
    if setting.max_vio < best.max_vio:
        return "more even, but costs loss"
    return "on the front, less even" if setting.on_front else "less even"


def confirmations(answer: Recommendation, shown: Figure) -> list[Pair]:
    """Settings that were tuned and confirmed, in the order of their confirmed figure."""
    tuned = {setting.label: setting for setting in answer.tuned}
    pairs = [
        _pair(tuned[setting.label], setting, shown)
        for setting in answer.settings
        if setting.stage != "tune" and setting.label in tuned
    ]
    return sorted(pairs, key=lambda pair: pair.confirmed)


def _pair(tuned: Setting, confirmed: Setting, shown: Figure) -> Pair:
    first, then = _of(tuned, shown), _of(confirmed, shown)
    return Pair(confirmed.label, first.mean, _half(first), then.mean, _half(then), then.seeds)


def _of(setting: Setting, shown: Figure) -> Interval:
    return setting.loss if shown == "loss" else setting.imbalance


def _half(found: Interval) -> float:
    return math.nan if found.half is None else found.half
