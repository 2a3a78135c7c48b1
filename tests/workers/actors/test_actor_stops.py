"""A trial that is stopped, cancelled or released ends with its records closed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from evenload.pipeline.errors import MirrorUnavailable
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import AttemptState, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.actors.actor import Assignment, Verdict
from tests.workers.actors.fake_actor import PROGRESS, FakeTrainActor, wait_for_command


def test_a_trial_with_a_stop_request_is_released(
    store: SweepStore, add_sweep: Callable[..., str], make_actor: Callable[..., FakeTrainActor]
) -> None:
    add_sweep([0])

    def train(assignment: Assignment) -> Verdict:
        threading.Thread(target=actor.request_stop).start()
        while assignment.heartbeat.report(PROGRESS) == "continue":
            pass
        return Verdict(TrialState.QUEUED, {}, "file:///c")

    actor = make_actor(train)
    assert actor.work("t0") is TrialState.QUEUED
    assert actor.sinks[0].closed == [TrialState.TRAINING]
    assert (store.trial("t0").failures, store.trial("t0").attempt) == (0, 1)
    assert actor.work("t0") is None
    assert store.trial("t0").attempt == 1


def test_a_cancelled_trial_is_stopped_by_its_heartbeat_and_its_sink_closed_as_cancelled(
    store: SweepStore, add_sweep: Callable[..., str], make_actor: Callable[..., FakeTrainActor]
) -> None:
    sweep_id = add_sweep([0])

    def train(assignment: Assignment) -> Verdict:
        store.cancel(sweep_id)
        while assignment.heartbeat.report(PROGRESS) == "continue":
            pass
        return Verdict(TrialState.QUEUED, {}, "file:///c")

    actor = make_actor(train)
    assert actor.work("t0") is TrialState.CANCELLED
    assert actor.sinks[0].closed == [TrialState.TRAINING]


def test_a_trial_that_its_user_stops_ends_with_a_checkpoint_and_the_reason(
    store: SweepStore, add_sweep: Callable[..., str], make_actor: Callable[..., FakeTrainActor]
) -> None:
    sweep_id = add_sweep([0])

    def train(assignment: Assignment) -> Verdict:
        store.stop(sweep_id, "t0")
        assert wait_for_command(assignment) == "end"
        return Verdict(TrialState.STOPPED, {}, "file:///c")

    actor = make_actor(train)
    assert actor.work("t0") is TrialState.STOPPED
    assert actor.sinks[0].closed == [TrialState.TRAINING]
    trial = store.trial("t0")
    assert (trial.checkpoint_uri, trial.stop_reason) == ("file:///c", "stopped by its user")


def test_sigterm_releases_the_trial_and_counts_a_preemption(
    settings: Settings, store: SweepStore, add_sweep: Callable[..., str]
) -> None:
    add_sweep([0])

    def train(assignment: Assignment) -> Verdict:
        os.kill(os.getpid(), signal.SIGTERM)
        assert wait_for_command(assignment) == "stop"
        return Verdict(TrialState.QUEUED, {}, "file:///c")

    before = signal.getsignal(signal.SIGTERM)
    try:
        actor = FakeTrainActor(settings, store, train, handles_sigterm=True)
        assert actor.work("t0") is TrialState.QUEUED
    finally:
        signal.signal(signal.SIGTERM, before)
    trial = store.trial("t0")
    assert (trial.failures, trial.preemptions) == (0, 1)
    assert store.attempts("t0")[0].state is AttemptState.PREEMPTED


def test_a_worker_whose_host_process_has_ended_releases_its_trial(
    store: SweepStore,
    add_sweep: Callable[..., str],
    make_actor: Callable[..., FakeTrainActor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_sweep([0])
    adopter = os.getppid() + 1

    def train(assignment: Assignment) -> Verdict:
        monkeypatch.setattr(os, "getppid", lambda: adopter)
        assert wait_for_command(assignment) == "stop"
        return Verdict(TrialState.QUEUED, {}, "file:///c")

    assert make_actor(train).work("t0") is TrialState.QUEUED


def test_an_outage_of_the_mirror_releases_the_trial_without_a_failure(
    store: SweepStore, settings: Settings, add_sweep: Callable[..., str]
) -> None:
    add_sweep([0])
    url = "http://user:correct-horse@mlflow"

    def train(_: Assignment) -> Verdict:
        raise MirrorUnavailable(f"the mirror does not answer: {url}")

    tracked = settings.model_copy(update={"tracking_uri": url})
    assert FakeTrainActor(tracked, store, train).work("t0") is TrialState.QUEUED
    trial = store.trial("t0")
    assert (trial.failures, trial.preemptions, trial.error) == (0, 0, None)
    (attempt,) = store.attempts("t0")
    assert attempt.state is AttemptState.RELEASED
    assert attempt.exit_reason == "the mirror does not answer: http://user:***@mlflow"
