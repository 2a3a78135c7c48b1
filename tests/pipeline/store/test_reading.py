from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.states import AttemptState, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from tests.pipeline.store.claims import LEASE, OVER, TRAIN, MakeSweep, claimed, complete, expire


def test_an_unknown_sweep_is_named_with_a_remedy(store: SweepStore) -> None:
    for ask in (store.sweep, store.trials, store.pause, store.cancel, store.retry_failed):
        with pytest.raises(SpecError, match="'nope' is unknown; `evenload sweep list`"):
            ask("nope")


def test_times_are_utc_of_the_database_and_in_order(store: SweepStore, sweep_id: str) -> None:
    store.heartbeat(claimed(store), None, LEASE)
    held = store.trial("t000")
    assert held.started_at is not None
    assert held.heartbeat_at is not None
    assert held.lease_until is not None
    assert held.created_at.tzinfo is UTC
    assert held.created_at <= held.started_at <= held.heartbeat_at
    assert held.lease_until - held.heartbeat_at == pytest.approx(
        timedelta(seconds=LEASE), abs=timedelta(seconds=1)
    )
    assert abs(datetime.now(UTC) - held.created_at) < timedelta(minutes=1)


def test_nan_and_inf_and_any_unicode_survive(store: SweepStore, sweep_id: str) -> None:
    error = "Fehler: größer als 3 \N{SNOWMAN} \N{ELEPHANT} \0 \udcff"
    result = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "tiny": 5e-324}
    store.finish(claimed(store), TrialState.FAILED, result, error=error)
    found = store.trial("t000")
    assert found.error == "Fehler: größer als 3 \N{SNOWMAN} \N{ELEPHANT} \\x00 \\udcff"
    assert math.isnan(found.result.pop("nan"))
    assert found.result == {"inf": math.inf, "-inf": -math.inf, "tiny": 5e-324}


def test_a_snapshot_holds_the_unfinished_trials_of_the_chosen_sweeps(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    first = store.add_sweep(*make_sweep(2, name="first", max_retries=5))
    second = store.add_sweep(*make_sweep(3, name="second", prefix="u"))
    complete(store, "t000")
    store.claim("t001", TRAIN, "w", OVER)
    expire(store)
    store.pause(second)
    found = store.snapshot([first])
    assert [(sweep.sweep_id, sweep.unfinished) for sweep in found.sweeps] == [(first, 1)]
    (trial,) = found.trials
    assert (trial.digest, trial.state, trial.failures) == ("t001", TrialState.QUEUED, 1)
    assert (trial.may_run, trial.max_retries, trial.worker) == (True, 5, "w")
    assert (trial.attempt_state, trial.exit_reason) == (AttemptState.LOST, "lease expired")
    everything = store.snapshot()
    assert [trial.digest for trial in everything.trials] == ["t001", "u000", "u001", "u002"]
    assert not everything.trials[1].may_run


def test_a_trial_of_a_paused_and_an_active_sweep_may_run_and_is_read_once(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    store.pause(store.add_sweep(*make_sweep(1, name="paused")))
    store.add_sweep(*make_sweep(1, name="active", max_retries=7))
    (trial,) = store.snapshot().trials
    assert (trial.may_run, trial.max_retries) == (True, 7)


def test_a_snapshot_reads_all_started_trials_and_the_first_unstarted_ones(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    sweep_id = store.add_sweep(*make_sweep(5))
    store.release(claimed(store, "t003"))
    store.finish(claimed(store, "t004"), TrialState.TRAINED)
    found = store.snapshot([sweep_id], max_unstarted=2)
    assert [trial.digest for trial in found.trials] == ["t000", "t001", "t003", "t004"]
    (sweep,) = found.sweeps
    assert (sweep.unfinished, sweep.queued, sweep.trained) == (5, 4, 1)
    store.pause(sweep_id, "t000")
    store.pause(sweep_id, "t001")
    found = store.snapshot([sweep_id], max_unstarted=1)
    assert "t002" in {trial.digest for trial in found.trials}, "a paused trial took its place"
