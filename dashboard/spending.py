"""What sweeps took so far: time on devices and energy, from what the store knows of each trial.

No shard is read: a list of all sweeps must open at once. The page of costs reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.cost import JOULES_PER_STEP, CostSettings
from pipeline.records import TrialRecord


class Spent(NamedTuple):
    gpu_seconds: float
    core_seconds: float
    joules: float


def train_seconds(trial: TrialRecord) -> float:
    """Of a trial that ended as its result says, of a running one by its tokens and their pace."""
    if "train_seconds" in trial.result:
        return trial.result["train_seconds"]
    if trial.progress is None or trial.progress.tokens_per_second <= 0:
        return 0.0
    return trial.progress.tokens / trial.progress.tokens_per_second


def spent(trials: Iterable[TrialRecord], settings: CostSettings) -> Spent:
    """Energy by the GPUs' counters where they were read, elsewhere modelled as in `cost`."""
    gpu = core = joules = 0.0
    for trial in trials:
        seconds, runtime = train_seconds(trial), trial.spec["runtime"]
        on_gpu = runtime["device"] == "cuda"
        threads = 1 if on_gpu else int(runtime.get("threads", 1))
        watts = settings.gpu_watts if on_gpu else threads * settings.core_watts
        measured = trial.result.get(JOULES_PER_STEP, math.nan) * trial.result.get("steps", math.nan)
        gpu += seconds if on_gpu else 0.0
        core += 0.0 if on_gpu else seconds * threads
        joules += (seconds * watts if math.isnan(measured) else measured) * settings.overhead
    return Spent(gpu, core, joules)
