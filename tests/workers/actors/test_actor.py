from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from evenload.pipeline import outage
from evenload.pipeline.errors import SpecError, StoreUnavailable
from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import CurvePoint, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.actors.actor import Assignment, Verdict
from evenload.workers.actors.eval_actor import EvalActor
from evenload.workers.actors.train_actor import TrainActor
from evenload.workers.training.loop import checkpoint_dir
from tests.workers.actors.fake_actor import FakeTrainActor


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
