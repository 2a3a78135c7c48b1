"""Which trials of a sweep to run, and in which order. Pure."""

from __future__ import annotations

import random

from pipeline.spec import TrialSpec
from pipeline.sweep_spec import GridSearch, SweepSpec


def propose(spec: SweepSpec) -> list[TrialSpec]:
    """The trials in the order in which they start. The same spec gives the same list."""
    trials = spec.expand()
    if isinstance(spec.search, GridSearch):
        return trials
    random.Random(spec.search.seed).shuffle(trials)
    return trials[: spec.search.trials]
