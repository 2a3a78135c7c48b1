"""A worker keeps its lease while it works, and writes nothing once it may have lost it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from evenload.pipeline.errors import LeaseLost, StoreUnavailable
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.actors.actor import Assignment, Verdict
from tests.workers.actors.fake_actor import PROGRESS, FakeTrainActor, wait_for_command


def cut_off(assignment: Assignment, heartbeat: Callable[..., Any]) -> None:
    """Gives the worker a lease whose last renewal is a lease ago, and another answer to the next.

    The answer comes from the calling test, so nothing here waits for a real lease.
    """
    beats = assignment.heartbeat
    beats.confirm()
    beats._store.heartbeat = heartbeat  # type: ignore[method-assign, assignment]
    beats._renewed_at -= beats._settings.lease_seconds


def test_a_worker_without_an_answer_for_a_lease_waits_and_writes_nothing(
    settings: Settings, store: SweepStore, add_sweep: Callable[..., str]
) -> None:
    """The database answers again after another attempt has been made."""
    add_sweep([0])
    waiting = threading.Event()

    def train(assignment: Assignment) -> Verdict:
        heartbeat = assignment.heartbeat._store.heartbeat

        def away(*arguments: Any) -> Any:
            if not waiting.is_set():
                raise StoreUnavailable("away")
            return heartbeat(*arguments)

        def another_attempt() -> None:
            store.lose(assignment.claim.worker, "lease expired")
            assert store.claim("t0", WorkKind.TRAIN, "another", 60) is not None
            waiting.set()

        cut_off(assignment, away)
        threading.Timer(0.1, another_attempt).start()
        with pytest.raises(LeaseLost):
            assignment.heartbeat.report(PROGRESS)
        with pytest.raises(LeaseLost):
            assignment.run.fence.check()
        assert waiting.is_set(), "it went on before the database answered"
        raise LeaseLost("seen")

    assert FakeTrainActor(settings, store, train).work("t0") is None
    assert store.trial("t0").worker == "another"


def test_a_worker_goes_on_when_the_database_answers_again(
    settings: Settings, store: SweepStore, add_sweep: Callable[..., str]
) -> None:
    add_sweep([0])

    def train(assignment: Assignment) -> Verdict:
        heartbeat, answers = assignment.heartbeat._store.heartbeat, iter([False, True])

        def away_once(*arguments: Any) -> Any:
            if next(answers, True):
                return heartbeat(*arguments)
            raise StoreUnavailable("away")

        cut_off(assignment, away_once)
        assert assignment.heartbeat.report(PROGRESS) == "continue"
        return Verdict(TrialState.TRAINED, {})

    assert FakeTrainActor(settings, store, train).work("t0") is TrialState.TRAINED


def test_a_worker_that_is_told_to_stop_while_the_database_is_away_ends(
    settings: Settings, store: SweepStore, add_sweep: Callable[..., str]
) -> None:
    add_sweep([0])

    def train(assignment: Assignment) -> Verdict:
        def away(*_: Any) -> Any:
            raise StoreUnavailable("away")

        cut_off(assignment, away)
        threading.Timer(0.1, actor.request_stop).start()
        assignment.heartbeat.report(PROGRESS)
        raise AssertionError("the report did not raise")

    actor = FakeTrainActor(settings, store, train)
    assert actor.work("t0") is None


def test_a_step_longer_than_the_lease_keeps_the_trial_and_shows_progress(
    settings: Settings,
    store: SweepStore,
    add_sweep: Callable[..., str],
) -> None:
    add_sweep([0])

    def train(assignment: Assignment) -> Verdict:
        assignment.heartbeat.report(PROGRESS)
        (before,) = store.snapshot().trials
        time.sleep(0.6)
        assert before.lease is not None
        assert store.expire([before.lease]) == []
        assert store.trial("t0").progress == PROGRESS
        return Verdict(TrialState.TRAINED, {})

    brief = settings.model_copy(update={"lease_seconds": 0.3, "heartbeat_seconds": 0.05})
    assert FakeTrainActor(brief, store, train).work("t0") is TrialState.TRAINED


def run_until_lease_lost(assignment: Assignment) -> Verdict:
    while True:
        assignment.heartbeat.report(PROGRESS)


def finish_all_the_same(_: Assignment) -> Verdict:
    return Verdict(TrialState.TRAINED, {"max_vio": 9.0}, "file:///wrong")


@pytest.mark.parametrize("behave", [run_until_lease_lost, finish_all_the_same])
def test_a_worker_that_lost_its_lease_stops_and_writes_nothing(
    store: SweepStore,
    add_sweep: Callable[..., str],
    make_actor: Callable[..., FakeTrainActor],
    behave: Callable[[Assignment], Verdict],
) -> None:
    add_sweep([0])

    def train(assignment: Assignment) -> Verdict:
        store.lose(assignment.claim.worker, "taken for dead")
        return behave(assignment)

    actor = make_actor(train)
    assert actor.work("t0") is None
    assert actor.sinks[0].closed == []
    trial = store.trial("t0")
    assert (trial.state, trial.result, trial.failures) == (TrialState.QUEUED, {}, 1)
    assert (trial.checkpoint_uri, trial.error) == (None, None)


def test_a_trial_whose_heartbeat_broke_stops_and_fails(
    store: SweepStore, add_sweep: Callable[..., str], make_actor: Callable[..., FakeTrainActor]
) -> None:
    add_sweep([0])

    def train(assignment: Assignment) -> Verdict:
        def broken(*_: Any) -> None:
            raise KeyError("a defect in the code")

        assignment.heartbeat._store.heartbeat = broken  # type: ignore[method-assign, assignment]
        wait_for_command(assignment)
        raise AssertionError("the report did not raise")

    assert make_actor(train).work("t0") is TrialState.QUEUED
    assert "a defect in the code" in str(store.trial("t0").error)
