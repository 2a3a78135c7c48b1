from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from evenload.pipeline import outage
from evenload.pipeline.errors import LeaseLost, MirrorUnavailable, SpecError, StoreUnavailable
from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import AttemptState, CurvePoint, Progress, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.actors.actor import Assignment, Verdict
from evenload.workers.actors.eval_actor import EvalActor
from evenload.workers.actors.train_actor import TrainActor
from evenload.workers.training.loop import checkpoint_dir

PROGRESS = Progress(step=1, steps=6, tokens=64, tokens_per_second=1.0, loss=2.0, max_vio=0.5)


class RecordingSink:
    """Remembers the state of the trial in the store when it was closed."""

    errors = 0

    def __init__(self, store: SweepStore, run: RunIdentity) -> None:
        self._store = store
        self.run = run
        self.closed: list[TrialState] = []

    def close(self) -> None:
        self.closed.append(self._store.trial(self.run.digest).state)


class FakeTrainActor(TrainActor):
    """Calls a function of the test instead of training."""

    def __init__(
        self,
        settings: Settings,
        store: SweepStore,
        behave: Callable[..., Any],
        handles_sigterm: bool = False,
    ) -> None:
        self.sinks: list[RecordingSink] = []
        self.behave = behave

        def sink_factory(_: Settings, run: RunIdentity) -> Any:
            self.sinks.append(RecordingSink(store, run))
            return self.sinks[-1]

        super().__init__("train-1", settings, sink_factory, handles_sigterm=handles_sigterm)

    def compute(self, assignment: Assignment) -> Verdict:
        return self.behave(assignment)


@pytest.fixture
def make_actor(settings: Settings, store: SweepStore) -> Callable[..., FakeTrainActor]:
    return lambda behave: FakeTrainActor(settings, store, behave)


def log_of(settings: Settings, name: str = "attempt-001-train.log") -> str:
    return (settings.trial_dir("t0") / "logs" / name).read_text(encoding="utf-8")


def test_a_real_trial_is_trained_and_scored(
    settings: Settings, store: SweepStore, add_sweep: Callable[..., str]
) -> None:
    add_sweep([0])

    def sink_factory(settings: Settings, run: RunIdentity) -> LoadLogSink:
        return LoadLogSink(settings.trial_dir(run.digest))

    assert TrainActor("train-1", settings, sink_factory).work("t0") is TrialState.TRAINED
    assert EvalActor("eval-1", settings, sink_factory).work("t0") is TrialState.COMPLETED
    trial = store.trial("t0")
    assert trial.result["steps"] == 6
    assert trial.result["count_check"] == 1.0
    assert 0 < trial.result["val_loss"] < 5
    assert [attempt.kind for attempt in store.attempts("t0")] == [WorkKind.TRAIN, WorkKind.EVAL]
    assert "the trial is trained" in log_of(settings)
    assert "the trial is completed" in log_of(settings, "attempt-002-eval.log")


def test_records_are_complete_before_the_verdict_is_in_the_store(
    store: SweepStore, add_sweep: Callable[..., str], make_actor: Callable[..., FakeTrainActor]
) -> None:
    add_sweep([0])
    actor = make_actor(lambda _: Verdict(TrialState.TRAINED, {"max_vio": 0.5}, "file:///c"))
    assert actor.work("t0") is TrialState.TRAINED
    (sink,) = actor.sinks
    assert sink.closed == [TrialState.TRAINING]
    trial = store.trial("t0")
    assert (trial.result, trial.checkpoint_uri) == ({"max_vio": 0.5}, "file:///c")


def test_a_trial_that_raises_is_failed_with_its_traceback(
    settings: Settings,
    store: SweepStore,
    add_sweep: Callable[..., str],
    make_actor: Callable[..., FakeTrainActor],
) -> None:
    add_sweep([0])

    def explode(_: Assignment) -> Verdict:
        raise ZeroDivisionError("größer als \N{SNOWMAN}")

    actor = make_actor(explode)
    assert actor.work("t0") is TrialState.QUEUED, "it may have been a full disk"
    assert actor.work("t0") is TrialState.FAILED
    error = store.trial("t0").error
    assert error is not None
    assert "in explode" in error
    assert error.endswith("ZeroDivisionError: größer als \N{SNOWMAN}\n")
    assert [sink.closed for sink in actor.sinks] == [[TrialState.TRAINING]] * 2
    assert "ZeroDivisionError: größer" in log_of(settings)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SpecError("data.path: no such file"), TrialState.FAILED),
        (FloatingPointError("the loss is nan"), TrialState.FAILED),
        (torch.OutOfMemoryError("CUDA out of memory"), TrialState.FAILED),
        (OSError(errno.ENOSPC, "No space left on device"), TrialState.QUEUED),
        (OSError(errno.ESTALE, "Stale file handle"), TrialState.QUEUED),
        (RuntimeError("CUDA error: unspecified launch failure"), TrialState.QUEUED),
        (StoreUnavailable("away"), TrialState.QUEUED),
    ],
)
def test_only_what_another_attempt_may_not_see_is_tried_once_more(
    add_sweep: Callable[..., str],
    make_actor: Callable[..., FakeTrainActor],
    error: Exception,
    expected: TrialState,
) -> None:
    add_sweep([0])

    def fail(_: Assignment) -> Verdict:
        raise error

    actor = make_actor(fail)
    assert actor.work("t0") is expected
    assert actor.work("t0") is (TrialState.FAILED if expected is TrialState.QUEUED else None)


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


def test_an_attempt_goes_on_from_the_checkpoint_before_a_damaged_one(
    settings: Settings, store: SweepStore, add_sweep: Callable[..., str]
) -> None:
    add_sweep([0])
    folder = checkpoint_dir(settings, "t0")

    def stop_and_damage(assignment: Assignment) -> Verdict:
        folder.mkdir(parents=True)
        (folder / "step-00000003.pt").write_bytes(b"cut")
        return Verdict(TrialState.QUEUED, {})

    FakeTrainActor(settings, store, stop_and_damage).work("t0")
    actor = TrainActor("train-1", settings, lambda to, run: LoadLogSink(to.trial_dir(run.digest)))
    assert actor.work("t0") is TrialState.TRAINED
    assert "step-00000003.pt is damaged; going on from the first step" in log_of(
        settings, "attempt-002-train.log"
    )


def test_a_sink_that_cannot_be_made_fails_the_trial(
    settings: Settings, store: SweepStore, add_sweep: Callable[..., str]
) -> None:
    add_sweep([0])

    def no_sink(_: Settings, run: RunIdentity) -> Any:
        raise OSError("disk full")

    assert TrainActor("train-1", settings, no_sink).work("t0") is TrialState.QUEUED
    assert TrainActor("train-2", settings, no_sink).work("t0") is TrialState.FAILED
    assert "disk full" in str(store.trial("t0").error)


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


def test_the_log_of_an_attempt_has_what_its_trial_prints(
    settings: Settings, add_sweep: Callable[..., str], make_actor: Callable[..., FakeTrainActor]
) -> None:
    add_sweep([0])

    def train(_: Assignment) -> Verdict:
        print("schön")
        return Verdict(TrialState.TRAINED, {})

    make_actor(train).work("t0")
    assert "schön\n" in log_of(settings)
    assert "attempt 1 by train-1@" in log_of(settings)


def test_a_trial_that_another_worker_has_is_not_touched(
    store: SweepStore, add_sweep: Callable[..., str], make_actor: Callable[..., FakeTrainActor]
) -> None:
    add_sweep([0])
    store.claim("t0", WorkKind.TRAIN, "other", 60)
    actor = make_actor(lambda _: Verdict(TrialState.TRAINED, {}))
    assert actor.work("t0") is None
    assert actor.sinks == []


def wait_for_command(assignment: Assignment) -> str:
    while (command := assignment.heartbeat.report(PROGRESS)) == "continue":
        time.sleep(0.01)
    return command


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


def test_a_verdict_waits_until_the_store_answers(
    store: SweepStore,
    add_sweep: Callable[..., str],
    make_actor: Callable[..., FakeTrainActor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This includes a store that took the verdict but whose answer was lost."""
    add_sweep([0])
    monkeypatch.setattr(outage, "FIRST_WAIT_SECONDS", 0.0)
    actor = make_actor(lambda _: Verdict(TrialState.TRAINED, {"max_vio": 0.5}, "file:///c"))
    finish, calls = actor._store.finish, iter(["away", "lost answer", "there"])

    def sometimes(*arguments: Any, **figures: Any) -> TrialState:
        happens = next(calls)
        if happens != "away":
            state = finish(*arguments, **figures)
        if happens != "there":
            raise StoreUnavailable(happens)
        return state

    monkeypatch.setattr(actor._store, "finish", sometimes)
    assert actor.work("t0") is TrialState.TRAINED
    trial = store.trial("t0")
    assert (trial.result, trial.failures, trial.attempt) == ({"max_vio": 0.5}, 0, 1)
    assert actor.sinks[0].closed == [TrialState.TRAINING]


def test_points_of_the_curve_are_in_the_store_before_the_verdict(
    store: SweepStore, add_sweep: Callable[..., str], make_actor: Callable[..., FakeTrainActor]
) -> None:
    sweep_id = add_sweep([0])
    point = CurvePoint(step=2, tokens=128, seconds=0.1, val_loss=3.0, max_vio=0.5)

    def train(assignment: Assignment) -> Verdict:
        assignment.heartbeat.add_curve_point(point)
        return Verdict(TrialState.TRAINED, {})

    make_actor(train).work("t0")
    assert store.curves(sweep_id) == {"t0": [point]}


def test_a_worker_is_present_while_it_works(
    store: SweepStore, add_sweep: Callable[..., str], make_actor: Callable[..., FakeTrainActor]
) -> None:
    add_sweep([0])
    seen: list[dict[str, Any]] = []

    def train(assignment: Assignment) -> Verdict:
        deadline = time.monotonic() + 10
        while not store.present() and time.monotonic() < deadline:
            time.sleep(0.05)
        seen.extend(each.facts for each in store.present())
        return Verdict(TrialState.TRAINED, {})

    make_actor(train).work("t0")
    assert [(facts["digest"], facts["attempt"]) for facts in seen] == [("t0", 1)]
    assert seen[0]["rss_bytes"] > 2**20
    assert store.present() == []


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
