"""Decides from learning curves which running trials to stop. Pure functions.

To add a policy, add a file here, an entry to `STOPPING` and a spec to `pipeline.spec.sweep`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from evenload.pipeline.spec.sweep import NoStopping, SweepSpec
from evenload.pipeline.states import CurvePoint, TrialRecord
from evenload.pipeline.sweep.stopping import asha, extrapolate
from evenload.pipeline.sweep.stopping.comparable_trials import comparable_groups

Verdicts = Iterator[tuple[str, str]]  # digest, reason

STOPPING: dict[str, Callable[..., Verdicts]] = {
    "asha": asha.stops,
    "extrapolate": extrapolate.stops,
}


def stops(
    spec: SweepSpec, curves: Mapping[str, Sequence[CurvePoint]], rows: Sequence[TrialRecord]
) -> list[tuple[str, str]]:
    """The digest and reason of every trial of the tune stage that should stop.

    A trial is compared only with trials that differ from it in the setting alone, see
    `comparable_groups`. A trial is returned again and again until the store marks it as stopped.
    """
    if isinstance(spec.stopping, NoStopping):
        return []
    policy = STOPPING[spec.stopping.kind]
    return [
        verdict
        for trials in comparable_groups(spec.stopping, curves, rows)
        for verdict in policy(spec.stopping, trials)
    ]
