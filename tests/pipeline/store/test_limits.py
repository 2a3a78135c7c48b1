"""What the store knows of the time that trials and sweeps have taken, and of their limits."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from evenload.pipeline.spec.sweep import SweepLimits, SweepSpec
from evenload.pipeline.states import Order, Snapshot, SweepState, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from tests.pipeline.store.claims import LEASE, TRAIN, MakeSweep


def limited(spec: SweepSpec, **limits: Any) -> SweepSpec:
    return spec.model_copy(update={"limits": SweepLimits(**limits)})


def set_back(store: SweepStore, seconds: int) -> None:
    """Makes all attempts older."""
    is_sqlite = store._engine.dialect.name == "sqlite"
    earlier = (
        f"strftime('%Y-%m-%d %H:%M:%f', started_at, '-{seconds} seconds')"
        if is_sqlite
        else f"started_at - interval '{seconds} seconds'"
    )
    sweeps = earlier.replace("started_at", "created_at")
    with store._transaction(writes=True) as connection:
        connection.execute(text(f"UPDATE attempt SET started_at = {earlier}"))
        connection.execute(text(f"UPDATE sweep SET created_at = {sweeps}"))


def test_time_is_counted_over_all_attempts(store: SweepStore, make_sweep: MakeSweep) -> None:
    spec, trials = make_sweep(2)
    sweep_id = store.add_sweep(limited(spec, hours=2, trial_hours=1), trials)
    assert _of(store.snapshot())[0] == (0.0, 1.0)
    for _ in range(2):
        claim = store.claim("t000", TRAIN, "w", LEASE)
        assert claim is not None
        set_back(store, 1800)
        if store.trial("t000").attempt == 1:
            store.release(claim)
    (seconds, hours), _ = _of(store.snapshot())
    assert (round(seconds / 10), hours) == (540, 1.0)  # the first attempt was set back twice
    [status] = store.snapshot().sweeps
    assert (round(status.spent_seconds / 10), status.limits["hours"]) == (360, 2)
    store.pause(sweep_id)
    store.resume(sweep_id)
    assert store.snapshot().sweeps[0].spent_seconds == 0.0, "a resume lets it work as long again"


def _of(snapshot: Snapshot) -> list[tuple[float, float | None]]:
    return [(trial.held_seconds, trial.limit_hours) for trial in snapshot.trials]


def test_a_higher_limit_keeps_the_id_and_lets_go_on_what_the_lower_one_ended(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    spec, trials = make_sweep(2)
    low, high = limited(spec, trial_hours=1), limited(spec, trial_hours=2)
    sweep_id = store.add_sweep(low, trials)
    store.order("t000", Order.STOP, "limits.hours=1: held for 1 h")
    store.order("t001", Order.STOP, "no prospects")
    store.add_sweep(low, trials)
    assert store.trial("t000").state is TrialState.STOPPED, "the same limit changes nothing"
    assert store.add_sweep(high, trials) == sweep_id
    assert store.trial("t000").state is TrialState.QUEUED
    assert store.trial("t001").state is TrialState.STOPPED


def test_a_sweep_that_its_limit_ends_gives_its_trials_the_reason(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    sweep_id = store.add_sweep(*make_sweep(2))
    claim = store.claim("t000", TRAIN, "w", LEASE)
    assert claim is not None
    store.stop(sweep_id, note="limits.hours=1: it works for 1 h")
    assert store.finish(claim, TrialState.STOPPED) is TrialState.STOPPED
    assert store.finish_sweep(sweep_id)
    found = [store.trial(digest) for digest in ("t000", "t001")]
    assert {trial.state for trial in found} == {TrialState.STOPPED}
    assert {trial.stop_reason for trial in found} == {"limits.hours=1: it works for 1 h"}
    assert store.sweep(sweep_id).state is SweepState.FINISHED
    assert store.sweep(sweep_id).note == "limits.hours=1: it works for 1 h"
