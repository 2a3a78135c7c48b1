"""Turns records of the store into tables."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from evenload.dashboard.wording import state_wording
from evenload.pipeline.figures.loss_unit import BITS_PER_BYTE, LossUnit
from evenload.pipeline.figures.metrics import METRICS, columns, of_trials
from evenload.pipeline.figures.wording import duration
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import (
    AttemptRecord,
    SweepOverview,
    SweepRecord,
    SweepState,
    TrialRecord,
    TrialState,
)
from evenload.pipeline.sweep.axes import EXPERTS, Axes, axes_of, value_of
from evenload.pipeline.sweep.setting import LOSS


def sweep_table(sweeps: Sequence[SweepOverview], now: datetime | None = None) -> pd.DataFrame:
    """One row per sweep, newest first."""
    rows = [
        {
            "sweep_id": one.sweep.sweep_id,
            "state": state_wording(one.sweep.state, one.failed, one.trials).text,
            "progress": 100 * one.done,
            "trials": one.trials,
            "completed": one.counts.get(TrialState.COMPLETED, 0),
            "running": one.running,
            "failed": one.failed,
            "created_at": one.sweep.created_at,
            "seconds": (seconds := _elapsed(one, now)),
            "eta_seconds": _left(one.sweep.state, one.done, seconds),
        }
        for one in sweeps
    ]
    table = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["sweep_id", "created_at"])
    return table.sort_values("created_at", ascending=False, ignore_index=True)


def _elapsed(one: SweepOverview, now: datetime | None) -> float:
    if one.started_at is None:
        return math.nan
    is_over = all(state.is_final for state in one.counts) and one.ended_at is not None
    end = one.ended_at if is_over and one.ended_at else now or datetime.now(UTC)
    return (end - one.started_at).total_seconds()


def _left(state: SweepState, done: float, seconds: float) -> float:
    """Seconds left at the pace so far; NaN if the sweep does not run or has not progressed."""
    if state is not SweepState.ACTIVE or not 0 < done < 1:
        return math.nan
    return seconds * (1 - done) / done


def trial_table(
    trials: Sequence[TrialRecord], axes: Axes, unit: LossUnit = BITS_PER_BYTE
) -> pd.DataFrame:
    """One row per trial, in sweep order, with shares in percent and NaN for missing figures."""
    rows = [
        {
            "digest": trial.digest,
            "rule": trial.label,
            "step_size": step_size(trial),
            "experts": trial.spec["model"]["num_experts"],
            **{key: value_of(trial.spec, key) for key in further(axes)},
            "seed": trial.spec["train"]["seed"],
            "state": str(trial.state),
            "progress": 100 * steps_done(trial),
            **{metric.name: figure(trial, metric.name, unit) for metric in columns()},
            "attempt": trial.attempt,
            "failures": trial.failures,
        }
        for trial in trials
    ]
    return pd.DataFrame(rows)


def further(axes: Axes) -> list[str]:
    """The axes that have a column of their own, beside rule, experts and seed."""
    return [key for key in (*axes.per, *axes.chosen) if key != EXPERTS and key[:9] != "balancer."]


def figure_table(trial: TrialRecord) -> pd.DataFrame:
    """Every final figure with its meaning; a dash for those that the trial's version lacked."""
    known = of_trials() if trial.result else []
    rows = [(m.title, m.shown(trial.figure(m.name)), m.unit, m.meaning, m.name) for m in known]
    unknown = sorted(trial.result.keys() - METRICS.keys())
    rows += [("", f"{trial.result[name]:.4g}", "", "", name) for name in unknown]
    return pd.DataFrame(rows, columns=["Figure", "Value", "Unit", "Meaning", "Name"])


def attempt_table(attempts: Iterable[AttemptRecord]) -> pd.DataFrame:
    """One row per attempt at a trial, oldest first."""
    rows = [
        {
            "Attempt": attempt.number,
            "Work": str(attempt.kind),
            "Worker": attempt.worker,
            "State": str(attempt.state),
            "Started (UTC)": attempt.started_at.strftime("%Y-%m-%d %H:%M:%S"),
            "Ran for": duration(
                ((attempt.ended_at or attempt.heartbeat_at) - attempt.started_at).total_seconds()
            ),
            "Ended because": attempt.exit_reason,
        }
        for attempt in attempts
    ]
    return pd.DataFrame(rows)


def figure(trial: TrialRecord, name: str, unit: LossUnit = BITS_PER_BYTE) -> float:
    """A final figure, with shares in percent and the held-out loss in `unit`; NaN: missing."""
    value = trial.figure(name)
    return 100 * value if METRICS[name].is_share else value * (unit.factor if name == LOSS else 1)


def why_failed(trial: TrialRecord) -> str:
    """The last line of the error, without the name of its Python class."""
    lines = (trial.error or "").strip().splitlines() or ["no traceback was recorded"]
    return re.sub(r"^[\w.]+(Error|Exception|Interrupt|Exit): ", "", lines[-1])


def step_size(trial: TrialRecord) -> float:
    """The step size or coefficient; NaN if the rule has neither."""
    balancer = trial.spec["balancer"]
    value = balancer.get("step_size", balancer.get("coefficient"))
    return math.nan if value is None else float(value)


def count(trials: Iterable[TrialRecord], state: TrialState) -> int:
    return sum(trial.state is state for trial in trials)


def steps_done(trial: TrialRecord) -> float:
    """The share of its steps that a trial has done."""
    if trial.state in (TrialState.TRAINED, TrialState.EVALUATING, TrialState.COMPLETED):
        return 1.0
    return trial.progress.step / trial.progress.steps if trial.progress else 0.0


def progress(trials: Sequence[TrialRecord]) -> float:
    """The mean share of steps that are done; failed and stopped trials count as done."""
    ended = (TrialState.FAILED, TrialState.STOPPED)
    shares = [1.0 if trial.state in ended else steps_done(trial) for trial in trials]
    return float(np.mean(shares)) if shares else 0.0


def elapsed_seconds(trials: Sequence[TrialRecord], now: datetime | None = None) -> float:
    """Time from the first start to the last end, or until now; NaN if no trial has started."""
    started = [trial.started_at for trial in trials if trial.started_at]
    if not started:
        return math.nan
    ends = [trial.finished_at for trial in trials if trial.finished_at]
    is_over = all(trial.state.is_final for trial in trials) and bool(ends)
    end = max(ends) if is_over else now or datetime.now(UTC)
    return (end - min(started)).total_seconds()


def eta_seconds(
    sweep: SweepRecord, trials: Sequence[TrialRecord], now: datetime | None = None
) -> float:
    """Time left at the pace so far; NaN if the sweep is not running or has not progressed."""
    return _left(sweep.state, progress(trials), elapsed_seconds(trials, now))


def trial_labels(trials: Sequence[TrialRecord]) -> dict[str, str]:
    """Unique names by digest: rule, every axis and, if needed, seed and a part of the digest."""
    axes = axes_of(trials)
    short = {trial.digest: axes.both(trial) for trial in trials}
    shared = {label for label, times in Counter(short.values()).items() if times > 1}
    return {
        trial.digest: short[trial.digest]
        if short[trial.digest] not in shared
        else f"{short[trial.digest]}, seed {trial.spec['train']['seed']} ({trial.digest[:6]})"
        for trial in trials
    }


def label_of(trial: TrialRecord) -> str:
    return f"{trial.label}, {trial.spec['model']['num_experts']} experts"


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The values of a spec with their keys, joined by dots."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def spec_of(trial: TrialRecord) -> TrialSpec:
    return TrialSpec.model_validate(trial.spec)
