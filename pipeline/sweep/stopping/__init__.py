"""Which running trials to stop, by their learning curves. Pure: curves in, reasons out.

Adding a policy is a file here, an entry in `STOPPING` and a spec in `evenload.pipeline.spec.sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import CurvePoint, TrialRecord
from evenload.pipeline.sweep.stopping import asha, extrapolate
from evenload.pipeline.sweep.stopping.comparable_trials import comparable_groups

Verdicts = Iterator[tuple[str, str]]  # digest, reason

STOPPING: dict[str, Callable[..., Verdicts]] = {
    "none": lambda policy, trials: iter(()),
    "asha": asha.stops,
    "extrapolate": extrapolate.stops,
}


def stops(
    spec: SweepSpec, curves: Mapping[str, Sequence[CurvePoint]], rows: Sequence[TrialRecord]
) -> list[tuple[str, str]]:
    """The (digest, reason) of every trial of the tune stage that should train no further.

    A trial is compared only with trials that differ from it in the setting alone, see
    `comparable_groups`. A trial is returned again and again until the store marks it as stopped.
    """
    policy = STOPPING[spec.stopping.kind]
    return [
        verdict
        for trials in comparable_groups(spec.stopping, curves, rows)
        for verdict in policy(spec.stopping, trials)
    ]
