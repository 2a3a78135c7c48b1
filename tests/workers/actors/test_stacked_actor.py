from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from evenload.pipeline.records.run import RunIdentity, StepRecord
from evenload.pipeline.records.shards import LoadLogSink, newest_checkpoint, read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Order, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.actors.stacked_actor import StackedActor
from evenload.workers.actors.train_actor import TrainActor
from evenload.workers.training import telemetry

AddSweep = Callable[..., str]
RULES = [{"kind": "none"}, {"kind": "sign", "step_size": 0.01}, {"kind": "quantile"}]


def shards(settings: Settings, run: RunIdentity) -> LoadLogSink:
    return LoadLogSink(settings.trial_dir(run.digest))


def states(store: SweepStore, count: int) -> list[TrialState]:
    return [store.trial(f"t{at}").state for at in range(count)]


def test_stackable_trials_are_trained_together_and_each_equals_the_trial_alone(
    settings: Settings, store: SweepStore, add_sweep: AddSweep
) -> None:
    add_sweep(RULES, axis="balancer")
    assert StackedActor("train-1", settings, shards).work("t0") is TrialState.TRAINED
    assert states(store, 3) == [TrialState.TRAINED] * 3
    second = settings.model_copy(update={"home": settings.home / "second"})
    second.home.mkdir()
    other = SweepStore(second.store_url)
    other.migrate()
    other.add_sweep(*_copied(store))
    for at in range(3):
        assert TrainActor("train-1", second, shards).work(f"t{at}") is TrialState.TRAINED
        ours, theirs = store.trial(f"t{at}"), other.trial(f"t{at}")
        assert ours.result["count_check"] == 1.0
        assert ours.result.keys() == theirs.result.keys()
        assert ours.result["train_loss"] == pytest.approx(theirs.result["train_loss"], rel=2e-5)
        counts = [read_history(home.trial_dir(f"t{at}")).count_SLE for home in (settings, second)]
        assert np.array_equal(*counts)
        assert newest_checkpoint(settings.trial_dir(f"t{at}")) == 6
        log = settings.trial_dir(f"t{at}") / "logs" / "attempt-001-train.log"
        assert "trains 3 trials as one program" in log.read_text(encoding="utf-8")
    other.close()


def _copied(store: SweepStore) -> tuple[Any, Any]:
    (sweep,) = store.sweeps()
    trials = store.trials(sweep.sweep_id)
    return SweepSpec.model_validate(sweep.spec), [
        (trial.digest, TrialSpec.model_validate(trial.spec)) for trial in trials
    ]


@pytest.mark.parametrize(("slots", "trained"), [(1, 5), (2, 3), (5, 1)])
def test_stackable_trials_are_shared_among_the_slots(
    settings: Settings, store: SweepStore, add_sweep: AddSweep, slots: int, trained: int
) -> None:
    add_sweep([0, 1, 2, 3, 4])
    StackedActor("train-1", settings, shards, slots=slots).work("t0")
    assert states(store, 5).count(TrialState.TRAINED) == trained
    assert store.trial("t0").state is TrialState.TRAINED


def test_the_second_worker_takes_as_many_as_the_first(
    settings: Settings, store: SweepStore, add_sweep: AddSweep
) -> None:
    add_sweep([0, 1, 2, 3])
    store.claim("t0", WorkKind.TRAIN, "train-0", 60)
    store.claim("t3", WorkKind.TRAIN, "train-0", 60)
    StackedActor("train-1", settings, shards, slots=2).work("t1")
    assert states(store, 4)[1:3] == [TrialState.TRAINED] * 2


def test_trials_of_another_shape_stay_queued(
    settings: Settings, store: SweepStore, add_sweep: AddSweep
) -> None:
    add_sweep([4, 8], axis="model.num_experts")
    StackedActor("train-1", settings, shards).work("t0")
    assert states(store, 2) == [TrialState.TRAINED, TrialState.QUEUED]


class CallingSink(LoadLogSink):
    """Calls a function when steps are recorded."""

    on_steps: Callable[[], None] | None = None

    def log_steps(self, records: Sequence[StepRecord]) -> None:
        super().log_steps(records)
        if self.on_steps is not None:
            self.on_steps()


def test_a_trial_that_is_cancelled_leaves_and_the_others_finish(
    settings: Settings, store: SweepStore, add_sweep: AddSweep
) -> None:
    add_sweep([0, 1, 2], steps=30)

    def cancel() -> None:
        store.order("t1", Order.CANCEL)
        time.sleep(3 * settings.heartbeat_seconds)

    def sink_factory(settings: Settings, run: RunIdentity) -> LoadLogSink:
        sink = CallingSink(settings.trial_dir(run.digest))
        sink.on_steps = cancel if run.digest == "t1" else None
        return sink

    StackedActor("train-1", settings, sink_factory).work("t0")
    assert states(store, 3) == [TrialState.TRAINED, TrialState.CANCELLED, TrialState.TRAINED]
    assert newest_checkpoint(settings.trial_dir("t1")) < 30
    for digest in ("t0", "t2"):
        assert store.trial(digest).result["count_check"] == 1.0


def test_a_trial_that_cannot_start_does_not_stop_the_others(
    settings: Settings, store: SweepStore, add_sweep: AddSweep
) -> None:
    add_sweep([0, 1, 2])

    def sink_factory(settings: Settings, run: RunIdentity) -> LoadLogSink:
        if run.digest == "t1":
            raise OSError("disk full")
        return shards(settings, run)

    StackedActor("train-1", settings, sink_factory).work("t0")
    assert states(store, 3) == [TrialState.TRAINED, TrialState.QUEUED, TrialState.TRAINED]
    assert "disk full" in str(store.trial("t1").error)


def test_a_loss_that_is_not_finite_fails_only_its_trial(
    settings: Settings, store: SweepStore, add_sweep: AddSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_sweep([0, 1])
    check = telemetry._check_finite
    seen = []

    def second_is_not(records: list[StepRecord]) -> None:
        seen.append(records)
        if len(seen) == 2:
            raise FloatingPointError("step 6: loss=nan")
        check(records)

    monkeypatch.setattr(telemetry, "_check_finite", second_is_not)
    StackedActor("train-1", settings, shards).work("t0")
    assert sorted(states(store, 2)) == [TrialState.FAILED, TrialState.TRAINED]


def test_a_stop_request_releases_all_trials_and_they_resume_alone(
    settings: Settings, store: SweepStore, add_sweep: AddSweep
) -> None:
    add_sweep([0, 1], steps=30)
    actor: StackedActor

    def sink_factory(settings: Settings, run: RunIdentity) -> LoadLogSink:
        sink = CallingSink(settings.trial_dir(run.digest))
        sink.on_steps = lambda: actor.request_stop()
        return sink

    actor = StackedActor("train-1", settings, sink_factory)
    actor.work("t0")
    assert states(store, 2) == [TrialState.QUEUED] * 2
    assert newest_checkpoint(settings.trial_dir("t0")) == 10
    assert newest_checkpoint(settings.trial_dir("t1")) == 10
    assert store.trial("t1").failures == 0
    for digest in ("t0", "t1"):
        assert TrainActor("train-2", settings, shards).work(digest) is TrialState.TRAINED
        assert read_history(settings.trial_dir(digest)).step_S.tolist() == list(range(1, 31))


def test_trials_that_stopped_at_different_steps_resume_in_separate_stacks(
    settings: Settings, store: SweepStore, add_sweep: AddSweep
) -> None:
    add_sweep([0, 1, 2], steps=12)
    first: TrainActor

    def stopping(settings: Settings, run: RunIdentity) -> LoadLogSink:
        sink = CallingSink(settings.trial_dir(run.digest))
        sink.on_steps = lambda: first.request_stop()
        return sink

    first = TrainActor("train-0", settings, stopping)
    first.work("t1")
    assert newest_checkpoint(settings.trial_dir("t1")) == 10
    StackedActor("train-1", settings, shards).work("t0")
    assert states(store, 3) == [TrialState.TRAINED] * 3
