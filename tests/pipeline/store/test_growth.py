"""What changes after a sweep was submitted: priority, more trials, curves, presence, removal."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from evenload.pipeline.errors import LeaseLost, SpecError
from evenload.pipeline.states import CurvePoint, Stage, SweepState, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from tests.pipeline.store.claims import LEASE, TRAIN, MakeSweep, claimed


def point(step: int, val_loss: float = 2.0) -> CurvePoint:
    return CurvePoint(step, tokens=step * 64, seconds=step / 2, val_loss=val_loss, max_vio=0.5)


def test_a_sweep_of_a_higher_priority_starts_first(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    older = store.add_sweep(*make_sweep(1, name="older", prefix="a"))
    spec, trials = make_sweep(1, name="urgent", prefix="b")
    store.add_sweep(spec.model_copy(update={"priority": 5}), trials)
    assert [trial.digest for trial in store.snapshot().trials] == ["b000", "a000"]
    first = store.claim_next(TRAIN, "w", LEASE)
    assert first is not None
    assert first.digest == "b000"
    store.release(first)
    store.set_priority(older, 6)
    assert store.sweep(older).priority == 6
    assert [trial.digest for trial in store.snapshot().trials] == ["a000", "b000"]


def test_a_sweep_grows_and_is_active_again(store: SweepStore, make_sweep: MakeSweep) -> None:
    spec, trials = make_sweep(3)
    sweep_id = store.add_sweep(spec, trials[:1])
    store.finish(claimed(store), TrialState.FAILED, error="no")
    assert store.finish_sweep(sweep_id)
    assert store.add_trials(sweep_id, trials, Stage.CONFIRM) == 2
    assert store.add_trials(sweep_id, trials, Stage.CONFIRM) == 0
    listed = store.trials(sweep_id)
    assert [trial.digest for trial in listed] == ["t000", "t001", "t002"]
    assert [trial.stage for trial in listed] == [Stage.TUNE, Stage.CONFIRM, Stage.CONFIRM]
    assert store.sweep(sweep_id).state is SweepState.ACTIVE


def test_running_a_grown_sweep_again_keeps_its_added_trials(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    spec, trials = make_sweep(3)
    sweep_id = store.add_sweep(spec, trials[:2])
    store.add_trials(sweep_id, trials[2:])
    store.add_sweep(spec, trials[:2])
    assert len(store.trials(sweep_id)) == 3
    store.add_sweep(spec, [("new000", trials[0][1])], {}, "data changed")
    assert [trial.digest for trial in store.trials(sweep_id)] == ["new000"]


@pytest.mark.parametrize("end", [SweepStore.stop, SweepStore.cancel])
def test_an_ended_sweep_takes_no_more_trials(
    store: SweepStore, make_sweep: MakeSweep, end: Callable[[SweepStore, str], None]
) -> None:
    spec, trials = make_sweep(2)
    sweep_id = store.add_sweep(spec, trials[:1])
    end(store, sweep_id)
    with pytest.raises(SpecError, match="takes no more trials"):
        store.add_trials(sweep_id, trials)


def test_curves_grow_and_a_resumed_attempt_writes_its_steps_again(
    store: SweepStore, sweep_id: str
) -> None:
    first = claimed(store)
    store.record_curve(first, [point(2), point(4)])
    store.release(first)
    second = claimed(store)
    store.record_curve(second, [point(4, 1.5), point(6)])
    with pytest.raises(LeaseLost):
        store.record_curve(first, [point(8)])
    assert store.curves(sweep_id) == {"t000": [point(2), point(4, 1.5), point(6)]}


def test_announcing_again_updates_the_row_and_withdrawing_removes_it(store: SweepStore) -> None:
    store.announce("w1", "train", {"host": "a"})
    store.announce("w1", "train", {"host": "b"})
    store.announce("c", "coordinator", {})
    coordinator, worker = store.present()
    assert (coordinator.name, worker.name) == ("c", "w1")
    assert worker.facts == {"host": "b"}
    assert timedelta() <= worker.seen_at - worker.started_at < timedelta(minutes=1)
    store.withdraw("c")
    assert [each.name for each in store.present()] == ["w1"]


def test_fast_failures_count_back_to_the_last_success_or_resume(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    def fast_failures() -> int:
        (sweep,) = store.snapshot([sweep_id]).sweeps
        return sweep.fast_failures

    sweep_id = store.add_sweep(*make_sweep(6))
    store.finish(claimed(store, "t000"), TrialState.TRAINED)
    assert fast_failures() == 0
    store.finish(claimed(store, "t001"), TrialState.FAILED, error="no")
    claimed(store, "t002")
    store.lose("w", "killed")
    store.release(claimed(store, "t003"))
    assert fast_failures() == 2
    store.pause(sweep_id, note="why")
    assert store.sweep(sweep_id).note == "why"
    store.resume(sweep_id)
    assert store.sweep(sweep_id).note is None
    assert fast_failures() == 0
    store.finish(claimed(store, "t003"), TrialState.FAILED, error="no")
    assert fast_failures() == 1


def test_deleting_a_sweep_deletes_the_trials_that_no_other_sweep_lists(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    first = store.add_sweep(*make_sweep(2, name="first"))
    second = store.add_sweep(*make_sweep(1, name="second"))
    store.record_curve(claimed(store, "t001"), [point(1)])
    with pytest.raises(SpecError, match="is active; pause or cancel it"):
        store.delete(first)
    store.pause(first)
    with pytest.raises(SpecError, match="a worker still holds trial t001"):
        store.delete(first)
    store.lose("w", "killed")
    assert store.deletable(first) == store.delete(first) == ["t001"]
    assert [sweep.sweep_id for sweep in store.sweeps()] == [second]
    assert [trial.digest for trial in store.trials(second)] == ["t000"]
    with pytest.raises(SpecError, match="'t001' is unknown"):
        store.trial("t001")


def test_a_trial_that_another_one_starts_from_is_kept(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    parent = store.add_sweep(*make_sweep(1, name="parent"))
    spec, trials = make_sweep(1, name="longer", prefix="l")
    ((digest, trial),) = trials
    store.cancel(parent)
    submitted = store.submit(spec.model_copy(update={"axes": {"extends": ["t000"]}}))
    with pytest.raises(SpecError, match=f"sweep {submitted}, which waits .* continues trial t000"):
        store.delete(parent)
    store.cancel(submitted)
    store.add_sweep(spec, [(digest, trial.model_copy(update={"extends": "t000"}))])
    assert store.trial(digest).extends == "t000"
    with pytest.raises(
        SpecError, match=r"trial l000 of sweep longer-.* continues trial t000; delete longer-"
    ):
        store.delete(parent)


def test_threads_of_one_worker_may_announce_it_at_once(store: SweepStore) -> None:
    """The trials of a stack do so, each with a connection of its own."""

    def announce(number: int) -> None:
        store.announce(f"w{number // 8}", "train", {"thread": number})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(announce, range(160)))
    assert len(store.present()) == 20


def test_a_submitted_sweep_gets_its_trials_only_while_it_is_active(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    spec, trials = make_sweep(2)
    sweep_id = store.submit(spec)
    store.pause(sweep_id)
    assert not store.admit(sweep_id, trials)
    store.resume(sweep_id)
    assert store.admit(sweep_id, trials)
    assert store.admit(sweep_id, trials), "not idempotent"
    assert [trial.digest for trial in store.trials(sweep_id)] == [digest for digest, _ in trials]
    spec, trials = make_sweep(2, name="ended", prefix="e")
    ended = store.submit(spec)
    store.stop(ended)
    assert store.finish_sweep(ended)
    assert not store.admit(ended, trials)
    assert store.sweep(ended).state is SweepState.FINISHED
    with pytest.raises(SpecError, match="unknown"):
        store.admit("nobody", trials)
