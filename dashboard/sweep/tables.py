"""Tables, curves and axes for the views of a sweep's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from evenload.dashboard.charts.front import Figure, Pair
from evenload.dashboard.charts.learning_curves import Curve, Unit
from evenload.dashboard.charts.parameters import Axis, number_axis, parameter_axis
from evenload.dashboard.record_tables import figure, label_of
from evenload.dashboard.sweep.importance import Parameter
from evenload.pipeline.figures.metrics import columns, in_grids
from evenload.pipeline.states import CurvePoint, TrialRecord, TrialState
from evenload.pipeline.sweep.recommend import Recommendation
from evenload.pipeline.sweep.setting import IMBALANCE, LOSS, Setting
from evenload.pipeline.sweep.statistics import Interval

Shown = Literal["val_loss", "max_vio"]
ENDED = (TrialState.STOPPED, TrialState.FAILED, TrialState.CANCELLED)


def outcomes() -> dict[str, str]:
    """The figures whose dependence on parameters is shown: metric name -> title."""
    return {metric.name: metric.head + (", %" if metric.is_share else "") for metric in in_grids()}


def learning_curves(
    trials: Sequence[TrialRecord],
    curves: Mapping[str, Sequence[CurvePoint]],
    x: Unit,
    y: Shown,
) -> list[Curve]:
    """The curves of trials that have one, in sweep order."""
    return [
        Curve(
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


def axes(trials: Sequence[TrialRecord], parameters: Sequence[Parameter]) -> list[Axis]:
    """The parameters that vary, then the outcomes that some trial has."""
    reached = [
        number_axis(title, np.array([figure(trial, name) for trial in trials]))
        for name, title in outcomes().items()
        if any(name in trial.result for trial in trials)
    ]
    return [*map(parameter_axis, parameters), *reached]


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
        Pair(confirmed.label, _of(tuned[confirmed.label], shown), _of(confirmed, shown))
        for confirmed in answer.settings
        if confirmed.stage != "tune" and confirmed.label in tuned
    ]
    return sorted(pairs, key=lambda pair: pair.confirmed.mean)


def _of(setting: Setting, shown: Figure) -> Interval:
    return setting.loss if shown == "loss" else setting.imbalance


def _half(found: Interval) -> float:
    return math.nan if found.half is None else found.half
