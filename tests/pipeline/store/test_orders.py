"""Verbs for single trials, and the answer that the worker gets at its next heartbeat."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.states import Charge, Command, Order, SweepState, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from tests.pipeline.store.claims import EVAL, LEASE, TRAIN, MakeSweep, claimed


def state(store: SweepStore, digest: str = "t000") -> TrialState:
    return store.trial(digest).state


def test_a_paused_trial_waits_while_others_run_and_can_be_resumed(
    store: SweepStore, sweep_id: str
) -> None:
    claim = claimed(store)
    for _ in range(2):
        store.pause(sweep_id, "t000")
    assert store.heartbeat(claim, None, LEASE) is Command.STOP
    assert store.release(claim) is TrialState.QUEUED
    assert store.claim("t000", TRAIN, "w", LEASE) is None
    other = store.claim_next(TRAIN, "w", LEASE)
    assert other is not None
    assert other.digest == "t001"
    assert [trial.may_run for trial in store.snapshot().trials] == [False, True]
    store.resume(sweep_id, "t000")
    assert claimed(store).attempt == 2


def test_a_stopped_trial_ends_with_its_reason_and_checkpoint(
    store: SweepStore, sweep_id: str
) -> None:
    claim = claimed(store)
    assert store.order("t000", Order.STOP, "worse than 2 of 3") is TrialState.TRAINING
    assert store.heartbeat(claim, None, LEASE) is Command.END
    store.finish(claim, TrialState.STOPPED, checkpoint_uri="file:///c")
    trial = store.trial("t000")
    assert (trial.state, trial.stop_reason) == (TrialState.STOPPED, "worse than 2 of 3")
    assert (trial.checkpoint_uri, trial.ordered) == ("file:///c", None)
    assert trial.finished_at is not None


def test_a_waiting_trial_is_stopped_at_once(store: SweepStore, sweep_id: str) -> None:
    store.stop(sweep_id, "t001")
    assert state(store, "t001") is TrialState.STOPPED
    assert store.trial("t001").stop_reason == "stopped by its user"


def test_a_trained_trial_that_is_ordered_to_stop_is_still_evaluated(
    store: SweepStore, sweep_id: str
) -> None:
    store.finish(claimed(store), TrialState.TRAINED)
    assert store.order("t000", Order.STOP, "late") is TrialState.TRAINED
    claim = claimed(store, kind=EVAL)
    assert store.heartbeat(claim, None, LEASE) is Command.CONTINUE
    assert store.finish(claim, TrialState.COMPLETED) is TrialState.COMPLETED


def test_a_lost_worker_does_not_undo_the_order_to_stop(store: SweepStore, sweep_id: str) -> None:
    claimed(store)
    store.stop(sweep_id, "t000")
    store.lose("w", "killed")
    assert state(store) is TrialState.STOPPED


def test_a_cancelled_trial_ends_when_its_worker_releases_it(
    store: SweepStore, sweep_id: str
) -> None:
    claim = claimed(store)
    store.cancel(sweep_id, "t000")
    assert store.heartbeat(claim, None, LEASE) is Command.STOP
    assert store.release(claim) is TrialState.CANCELLED
    assert state(store, "t001") is TrialState.QUEUED


@pytest.mark.parametrize("verb", [SweepStore.stop, SweepStore.cancel])
def test_an_ended_trial_can_be_resumed_and_its_sweep_runs_again(
    store: SweepStore, sweep_id: str, verb: Callable[[SweepStore, str, str], None]
) -> None:
    for digest in ("t000", "t001"):
        verb(store, sweep_id, digest)
    assert store.finish_sweep(sweep_id)
    store.resume(sweep_id, "t000")
    assert state(store) is TrialState.QUEUED
    assert store.trial("t000").stop_reason is None
    assert store.sweep(sweep_id).state is SweepState.ACTIVE
    claimed(store)


def test_verbs_do_not_change_a_completed_trial(store: SweepStore, sweep_id: str) -> None:
    store.finish(claimed(store), TrialState.TRAINED)
    store.finish(claimed(store, kind=EVAL), TrialState.COMPLETED)
    before = store.trial("t000")
    for verb in (store.pause, store.stop, store.cancel, store.resume):
        with pytest.raises(SpecError, match="trial t000 is completed and cannot be"):
            verb(sweep_id, "t000")
    assert store.trial("t000") == before


def test_a_failed_trial_is_retried_alone_and_not_resumed(store: SweepStore, sweep_id: str) -> None:
    for digest in ("t000", "t001"):
        store.finish(claimed(store, digest), TrialState.FAILED, error="no")
    with pytest.raises(SpecError, match="trial t000 failed; queue it again with"):
        store.resume(sweep_id, "t000")
    assert store.retry_failed(sweep_id, "t000") == 1
    assert (state(store), state(store, "t001")) == (TrialState.QUEUED, TrialState.FAILED)


def test_a_trial_of_another_sweep_is_refused(
    store: SweepStore, sweep_id: str, make_sweep: MakeSweep
) -> None:
    store.add_sweep(*make_sweep(1, name="other", prefix="u"))
    for verb in (store.pause, store.stop, store.cancel, store.resume, store.retry_failed):
        with pytest.raises(SpecError, match=f"sweep {sweep_id} has no trial 'u000'"):
            verb(sweep_id, "u000")
    with pytest.raises(SpecError, match="'nope' is unknown"):
        store.order("nope", Order.PAUSE)


def test_a_stopping_sweep_evaluates_its_trained_trials_and_finishes(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    sweep_id = store.add_sweep(*make_sweep(3))
    store.finish(claimed(store, "t000"), TrialState.TRAINED)
    running = claimed(store, "t001")
    for _ in range(2):
        store.stop(sweep_id)
    assert store.sweep(sweep_id).state is SweepState.STOPPING
    assert state(store, "t002") is TrialState.STOPPED
    assert store.heartbeat(running, None, LEASE) is Command.END
    store.finish(running, TrialState.STOPPED)
    assert store.trial("t001").stop_reason == "its sweep was stopped"
    assert not store.finish_sweep(sweep_id)
    evaluated = claimed(store, "t000", EVAL)
    assert store.heartbeat(evaluated, None, LEASE) is Command.CONTINUE
    store.finish(evaluated, TrialState.COMPLETED)
    assert store.finish_sweep(sweep_id)
    with pytest.raises(SpecError, match="is finished and cannot become stopping"):
        store.stop(sweep_id)
    assert store.sweep(sweep_id).state is SweepState.FINISHED


def test_a_stopped_sweep_leaves_trials_that_another_one_wants(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    first = store.add_sweep(*make_sweep(2, name="first"))
    store.add_sweep(*make_sweep(1, name="second"))
    claim = claimed(store, "t000")
    store.stop(first)
    assert store.heartbeat(claim, None, LEASE) is Command.CONTINUE
    assert (state(store), state(store, "t001")) == (TrialState.TRAINING, TrialState.STOPPED)


def test_preemptions_have_a_budget_of_their_own(store: SweepStore, sweep_id: str) -> None:
    store.release(claimed(store), "preempted", preempted=True)
    claimed(store)
    store.lose("w", "its node is gone", Charge.PREEMPTION)
    claimed(store)
    store.lose("w", "killed")
    trial = store.trial("t000")
    assert (trial.failures, trial.preemptions) == (1, 2)
    (status, _) = store.snapshot().trials
    assert (status.preemptions, status.max_preemptions) == (2, 20)
    assert [a.state.value for a in store.attempts("t000")] == ["preempted", "preempted", "lost"]


def test_finish_and_release_are_idempotent(store: SweepStore, sweep_id: str) -> None:
    """A worker repeats the call if the store committed it but its answer was lost."""
    claim = claimed(store)
    for _ in range(2):
        assert store.finish(claim, TrialState.TRAINED, {"x": 1.0}) is TrialState.TRAINED
    claim = claimed(store, kind=EVAL)
    for _ in range(2):
        assert store.release(claim, preempted=True) is TrialState.TRAINED
    assert store.trial("t000").preemptions == 1


def test_an_order_on_behalf_of_one_sweep_leaves_a_trial_that_another_wants(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    first = store.add_sweep(*make_sweep(2, name="first"))
    second = store.add_sweep(*make_sweep(1, name="second"))
    for digest in ("t000", "t001"):
        store.order(digest, Order.STOP, "worse", for_sweep=first)
    assert (state(store), state(store, "t001")) == (TrialState.QUEUED, TrialState.STOPPED)
    store.cancel(second)
    assert store.order("t000", Order.STOP, "worse", for_sweep=first) is TrialState.STOPPED
