"""What sweeps took so far: time on devices, energy, carbon, from what the store knows of a trial.

No shard is read: a list of all sweeps must open at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from evenload.pipeline.figures.cost import CostSettings, Recorded, SweepCost, sweep_cost, trial_cost
from evenload.pipeline.states import TrialRecord


def spent(trials: Iterable[TrialRecord], settings: CostSettings) -> SweepCost:
    """Of training, as `figures.cost` reckons it; what waits for other ranks is not in it."""
    return sweep_cost(
        trial_cost(trial, Recorded(steps(trial), train_seconds(trial), {}, {}), settings)
        for trial in trials
    )


def train_seconds(trial: TrialRecord) -> float:
    """Of a trial that ended as its result says, of a running one by its tokens and their pace."""
    if "train_seconds" in trial.result:
        return trial.result["train_seconds"]
    if trial.progress is None or trial.progress.tokens_per_second <= 0:
        return 0.0
    return trial.progress.tokens / trial.progress.tokens_per_second


def steps(trial: TrialRecord) -> int:
    """Trained so far."""
    return int(trial.result.get("steps", trial.progress.step if trial.progress else 0))
