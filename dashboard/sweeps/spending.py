"""The cost of sweeps so far: device time, energy and carbon.

It is computed from the store alone, because reading shards would delay the list of all sweeps.
"""

from collections.abc import Iterable

from evenload.pipeline.figures.cost import CostSettings, Recorded, SweepCost, sweep_cost, trial_cost
from evenload.pipeline.states import TrialRecord


def spent(trials: Iterable[TrialRecord], settings: CostSettings) -> SweepCost:
    """The cost of training, computed by `figures.cost`, without waiting for other ranks."""
    return sweep_cost(
        trial_cost(trial, Recorded(steps(trial), train_seconds(trial), {}, {}), settings)
        for trial in trials
    )


def train_seconds(trial: TrialRecord) -> float:
    """The training time: from the result, or from tokens and pace while the trial runs."""
    if "train_seconds" in trial.result:
        return trial.result["train_seconds"]
    if trial.progress is None or trial.progress.tokens_per_second <= 0:
        return 0.0
    return trial.progress.tokens / trial.progress.tokens_per_second


def steps(trial: TrialRecord) -> int:
    """The number of steps trained so far."""
    return int(trial.result.get("steps", trial.progress.step if trial.progress else 0))
