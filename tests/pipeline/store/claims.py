"""Helpers that claim trials of the sweeps that `make_sweep` makes."""

from __future__ import annotations

from collections.abc import Callable

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Claim, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore

TRAIN, EVAL = WorkKind.TRAIN, WorkKind.EVAL
LEASE = 60.0
OVER = -1.0  # a lease that has expired when it begins
MakeSweep = Callable[..., tuple[SweepSpec, list[tuple[str, TrialSpec]]]]


def claimed(store: SweepStore, digest: str = "t000", kind: WorkKind = TRAIN) -> Claim:
    claim = store.claim(digest, kind, "w", LEASE)
    assert claim is not None
    return claim


def expire(store: SweepStore) -> list[str]:
    """Expires the leases that were over when they began."""
    leases = [trial.lease for trial in store.snapshot().trials if trial.lease is not None]
    return store.expire([lease for lease in leases if lease.seconds < 0])


def states(store: SweepStore, sweep_id: str) -> list[TrialState]:
    return [trial.state for trial in store.trials(sweep_id)]


def complete(store: SweepStore, *digests: str) -> None:
    for digest in digests:
        store.finish(claimed(store, digest), TrialState.TRAINED)
        store.finish(claimed(store, digest, EVAL), TrialState.COMPLETED)
