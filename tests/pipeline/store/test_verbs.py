from __future__ import annotations

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.states import Command, SweepState, TrialState
from evenload.pipeline.store.deeds import WHO
from evenload.pipeline.store.sweep_store import SweepStore
from tests.pipeline.store.claims import (
    LEASE,
    OVER,
    TRAIN,
    MakeSweep,
    claimed,
    complete,
    expire,
    states,
)


def test_a_paused_sweep_starts_nothing_and_tells_its_workers_to_stop(
    store: SweepStore, sweep_id: str
) -> None:
    claim = claimed(store)
    store.pause(sweep_id)
    store.pause(sweep_id)
    assert store.heartbeat(claim, None, LEASE) is Command.STOP
    assert store.claim("t001", TRAIN, "w", LEASE) is None
    assert store.claim_next(TRAIN, "w", LEASE) is None
    assert store.release(claim) is TrialState.QUEUED
    store.resume(sweep_id)
    assert store.heartbeat(claimed(store), None, LEASE) is Command.CONTINUE


def test_cancel_ends_waiting_trials_now_and_running_ones_when_released(
    store: SweepStore, sweep_id: str
) -> None:
    claim = claimed(store)
    store.cancel(sweep_id)
    assert states(store, sweep_id) == [TrialState.TRAINING, TrialState.CANCELLED]
    assert store.heartbeat(claim, None, LEASE) is Command.STOP
    assert store.release(claim) is TrialState.CANCELLED
    assert store.sweep(sweep_id).finished_at is not None
    with pytest.raises(SpecError, match="is cancelled and cannot become active"):
        store.resume(sweep_id)


def test_a_trial_that_finishes_training_after_a_cancel_keeps_its_figures(
    store: SweepStore, sweep_id: str
) -> None:
    claim = claimed(store)
    store.cancel(sweep_id)
    assert store.finish(claim, TrialState.TRAINED, {"max_vio": 0.2}) is TrialState.CANCELLED
    assert store.trial("t000").result == {"max_vio": 0.2}


def test_a_worker_lost_after_a_cancel_leaves_a_cancelled_trial(
    store: SweepStore, sweep_id: str
) -> None:
    store.claim("t000", TRAIN, "w", OVER)
    store.cancel(sweep_id)
    expire(store)
    assert store.trial("t000").state is TrialState.CANCELLED


def test_cancel_leaves_trials_that_another_sweep_wants(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    first = store.add_sweep(*make_sweep(2, name="first"))
    store.add_sweep(*make_sweep(1, name="second"))
    store.cancel(first)
    assert states(store, first) == [TrialState.QUEUED, TrialState.CANCELLED]


def test_retry_queues_failed_trials_only_and_reopens_the_sweep(
    store: SweepStore, sweep_id: str
) -> None:
    store.finish(claimed(store, "t000"), TrialState.FAILED, error="boom")
    complete(store, "t001")
    assert store.finish_sweep(sweep_id)
    assert store.retry_failed(sweep_id) == 1
    assert store.retry_failed(sweep_id) == 0
    assert states(store, sweep_id) == [TrialState.QUEUED, TrialState.COMPLETED]
    assert store.trial("t000").error is None
    assert store.sweep(sweep_id).state is SweepState.ACTIVE


def test_a_retried_trial_has_its_whole_budgets_again(store: SweepStore, sweep_id: str) -> None:
    claimed(store, "t000")
    store.lose("w", "killed")
    store.release(claimed(store, "t000"), "its node went away", preempted=True)
    store.finish(claimed(store, "t000"), TrialState.FAILED, error="boom")
    spent = store.trial("t000")
    assert (spent.failures, spent.preemptions) == (1, 1)
    store.retry_failed(sweep_id)
    retried = store.trial("t000")
    assert (retried.failures, retried.preemptions, retried.finished_at) == (0, 0, None)
    assert (retried.attempt, retried.ordered) == (3, None)


def test_every_verb_is_noted_with_who_when_and_what(store: SweepStore, sweep_id: str) -> None:
    digest = store.trials(sweep_id)[0].digest
    WHO.set("anna@example.com")
    store.pause(sweep_id)
    store.cancel(sweep_id, digest)
    with pytest.raises(SpecError):
        store.retry_failed("unknown")
    WHO.set(None)
    store.set_priority(sweep_id, 3)
    store.cancel(sweep_id)
    store.delete(sweep_id)
    deeds = store.deeds()
    assert [deed.verb for deed in deeds] == [
        "delete",
        "cancel",
        "priority",
        "cancel",
        "pause",
        "run",
    ]
    assert [deed.digest for deed in deeds] == [None, None, None, digest, None, None]
    assert {deed.who for deed in deeds[3:5]} == {"anna@example.com"}
    assert "@" in deeds[0].who
    assert deeds == sorted(deeds, key=lambda deed: deed.at, reverse=True)
    assert {deed.sweep_id for deed in deeds} == {sweep_id}
