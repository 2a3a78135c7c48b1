from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from evenload.pipeline.errors import CannotRun, SpecError, StoreUnavailable
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import SweepState, TrialRecord, TrialState, WorkKind
from evenload.pipeline.store.deeds import WHO
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.coordinator import Coordinator
from evenload.pipeline.sweep.worker_id import worker_id
from tests.pipeline.sweep.fake_executor import (
    EVAL,
    LEASE,
    TRAIN,
    VERDICT,
    FakeExecutor,
    run,
    states,
)

pytestmark = pytest.mark.usefixtures("observed")


def test_a_sweep_runs_to_its_end_with_one_launch_per_trial_and_kind(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    sweep_id = add_sweep(5)
    executor = FakeExecutor(store)
    assert run(store, executor, sweep_id)
    assert states(store, sweep_id) == {TrialState.COMPLETED: 5}
    assert Counter(executor.launched) == {
        (kind, f"t{n}"): 1 for kind in (TRAIN, EVAL) for n in range(5)
    }
    assert store.sweep(sweep_id).state is SweepState.FINISHED
    assert executor.is_closed


def test_evaluations_do_not_wait_for_all_training(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    executor = FakeExecutor(store)
    run(store, executor, add_sweep(4))
    assert executor.launched.index((EVAL, "t0")) < executor.launched.index((TRAIN, "t3"))


def test_running_a_finished_sweep_again_starts_nothing(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    sweep_id = add_sweep(2)
    run(store, FakeExecutor(store), sweep_id)
    again = FakeExecutor(store)
    assert run(store, again, sweep_id)
    assert again.launched == []


def test_a_worker_that_dies_is_replaced_and_costs_a_retry(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    sweep_id = add_sweep(2)
    run(store, FakeExecutor(store, dies_at={"t0": 2}), sweep_id)
    assert [trial.failures for trial in store.trials(sweep_id)] == [2, 0]
    assert states(store, sweep_id) == {TrialState.COMPLETED: 2}


def test_a_trial_that_kills_every_worker_fails_with_the_reason_and_the_sweep_continues(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    sweep_id = add_sweep(2)
    assert run(store, FakeExecutor(store, dies_at={"t0": 99}), sweep_id)
    first, second = store.trials(sweep_id)
    assert (first.state, first.failures) == (TrialState.FAILED, 3)
    assert first.error == "given up after 3 lost attempts; the last one: killed"
    assert second.state is TrialState.COMPLETED


def test_a_sweep_whose_workers_all_die_is_paused_and_continues_once_resumed(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    sweep_id = add_sweep(6)
    executor = FakeExecutor(store, dies_at={f"t{n}": 9 for n in range(6)})
    notes: list[str | None] = []

    def repair(_: object) -> None:
        sweep = store.sweep(sweep_id)
        if sweep.state is SweepState.PAUSED:
            notes.append(sweep.note)
            executor._dies_at.clear()
            store.resume(sweep_id)

    assert run(store, executor, sweep_id, observer=repair)
    assert len(notes) == 1
    assert "failed right after their start" in str(notes[0])
    assert states(store, sweep_id) == {TrialState.COMPLETED: 6}


def test_a_growing_sweep_is_finished_once_its_policies_add_no_more(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    class OneMore:
        """Adds a trial when the first is complete."""

        def __init__(self) -> None:
            self.rooms: list[int] = []

        def apply(self, sweep_id: str, room: int) -> bool:
            self.rooms.append(room)
            trials = store.trials(sweep_id)
            if trials[0].state is not TrialState.COMPLETED:
                return True
            if len(trials) > 1:
                return False
            spec = TrialSpec.model_validate(trials[0].spec)
            return store.add_trials(sweep_id, [("more", spec)]) > 0

    sweep_id, policies = add_sweep(1), OneMore()
    assert run(store, FakeExecutor(store), sweep_id, policies=policies)
    assert [trial.digest for trial in store.trials(sweep_id)] == ["t0", "more"]
    assert states(store, sweep_id) == {TrialState.COMPLETED: 2}
    assert policies.rooms[0] == 1, "two workers and one waiting trial leave room for one"


def test_a_coordinator_announces_its_facts_until_it_ends(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    sweep_id = add_sweep(3)
    coordinator = Coordinator(store, FakeExecutor(store), poll_seconds=0)
    coordinator.round((sweep_id,))
    (present,) = store.present()
    assert present.role == "coordinator"
    assert present.facts["waiting"] == {"train": 3, "eval": 0}
    assert present.facts["busy"] == {"w1": "t0", "w2": "t1"}
    assert coordinator.run(sweep_id)
    assert store.present() == []


def test_a_worker_that_hangs_beyond_its_lease_is_ended(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    sweep_id = add_sweep(1)
    executor = FakeExecutor(store)
    coordinator = Coordinator(store, executor)
    coordinator.round((sweep_id,))
    claim = store.claim("t0", TRAIN, worker_id("w1"), -1.0)
    assert claim is not None
    coordinator.round((sweep_id,))
    assert executor.killed == []
    coordinator.round((sweep_id,))
    assert executor.killed == ["w1"]
    assert store.trial("t0").failures == 1


def test_the_observer_gets_the_trials_after_every_round(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    seen: list[int] = []

    def observe(trials: Any) -> None:
        assert all(isinstance(trial, TrialRecord) for trial in trials)
        seen.append(sum(trial.state.is_final for trial in trials))

    run(store, FakeExecutor(store), add_sweep(2), observer=observe)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 2)


def test_a_cancelled_sweep_ends_once_its_trials_are_released(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    sweep_id = add_sweep(3)

    def cancel(_: object) -> None:
        if store.sweep(sweep_id).state is SweepState.ACTIVE:
            store.cancel(sweep_id)

    assert run(store, FakeExecutor(store), sweep_id, observer=cancel)
    assert states(store, sweep_id) == {TrialState.CANCELLED: 3}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_workers_release_their_trials_and_restores_the_handler(
    store: SweepStore, add_sweep: Callable[[int], str], number: signal.Signals
) -> None:
    sweep_id = add_sweep(3)
    before = signal.getsignal(number)

    def interrupt(trials: Any) -> None:
        if any(trial.state is TrialState.TRAINING for trial in trials):
            os.kill(os.getpid(), number)

    assert not run(store, FakeExecutor(store), sweep_id, observer=interrupt)
    assert signal.getsignal(number) is before
    assert states(store, sweep_id) == {TrialState.QUEUED: 3}
    assert [trial.failures for trial in store.trials(sweep_id)] == [0, 0, 0]
    assert run(store, FakeExecutor(store), sweep_id)


def test_without_ids_it_runs_all_sweeps_until_it_is_stopped(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    sweep_id = add_sweep(2)
    coordinator = Coordinator(store, FakeExecutor(store), poll_seconds=0)
    serving = threading.Thread(target=coordinator.run)
    serving.start()
    while store.sweep(sweep_id).state is not SweepState.FINISHED:
        assert serving.is_alive()
    coordinator.stop()
    serving.join()
    assert states(store, sweep_id) == {TrialState.COMPLETED: 2}


def test_an_unknown_sweep_starts_nothing(store: SweepStore) -> None:
    with pytest.raises(SpecError, match="'nope' is unknown"):
        run(store, FakeExecutor(store), "nope")


def test_a_short_outage_of_the_database_is_survived(
    store: SweepStore, add_sweep: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_id = add_sweep(1)
    snapshot, calls = store.snapshot, iter(range(1000))

    def sometimes(*choice: Any, **limits: Any) -> Any:
        if next(calls) % 2:
            raise StoreUnavailable("away")
        return snapshot(*choice, **limits)

    monkeypatch.setattr(store, "snapshot", sometimes)
    assert run(store, FakeExecutor(store), sweep_id)


def test_a_database_that_stays_away_ends_the_run(
    store: SweepStore, add_sweep: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*choice: Any, **limits: Any) -> Any:
        raise StoreUnavailable("away")

    sweep_id = add_sweep(1)
    monkeypatch.setattr(store, "snapshot", away)
    with pytest.raises(StoreUnavailable):
        run(store, FakeExecutor(store), sweep_id, outage_seconds=0)


def held_elsewhere(store: SweepStore) -> None:
    """Lets a worker of another host claim the first trial. It renews its lease no more."""
    assert store.claim("t0", TRAIN, "elsewhere@another-host", LEASE) is not None


def test_a_lease_runs_out_only_while_the_coordinator_looks_on(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    """Before that it had just started, then it was stopped or the database was away."""
    sweep_id, now = add_sweep(1), [1000.0]
    coordinator = Coordinator(store, FakeExecutor(store), clock=lambda: now[0])
    held_elsewhere(store)
    for pause in (0, 10 * LEASE, 10 * LEASE, *[LEASE / 10] * 5):
        now[0] += pause
        coordinator.round((sweep_id,))
        assert store.trial("t0").failures == 0
    now[0] += LEASE / 10
    coordinator.round((sweep_id,))
    assert store.trial("t0").failures == 1


def test_a_worker_that_is_stopped_and_too_late_in_the_same_round_is_ended_once(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    sweep_id = add_sweep(1)
    executor = FakeExecutor(store)
    coordinator = Coordinator(store, executor, poll_seconds=0)
    coordinator.round((sweep_id,))
    held_elsewhere(store)
    store.cancel(sweep_id)
    coordinator.round((sweep_id,))
    assert executor.killed == ["w1"]


def test_a_paused_sweep_ends_the_run_once_its_workers_have_released_their_trials(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    sweep_id = add_sweep(3)

    def pause(trials: Any) -> None:
        if any(trial.state is TrialState.TRAINING for trial in trials):
            store.pause(sweep_id)

    assert run(store, FakeExecutor(store), sweep_id, observer=pause)
    assert store.sweep(sweep_id).state is SweepState.PAUSED
    assert states(store, sweep_id) == {TrialState.QUEUED: 3}


def test_many_trials_of_one_submitter_do_not_delay_another_whatever_their_priority(
    store: SweepStore, add_sweep: Callable[..., str]
) -> None:
    """One worker, so that only turns are fair; the snapshot reads a few trials of each."""

    class OneWorker(FakeExecutor):
        def free(self) -> dict[WorkKind, int]:
            return {TRAIN: 1 - len(self.busy()), EVAL: 1 - len(self.busy())}

    WHO.set("ann")
    store.set_priority(add_sweep(100, name="ann"), 100)
    WHO.set("bob")
    add_sweep(3, name="bob")
    executor = OneWorker(store)
    coordinator = Coordinator(store, executor, poll_seconds=0)
    for _ in range(60):
        coordinator.round()
        executor.wait(0)
    started = [digest for kind, digest in executor.launched if kind is TRAIN]
    assert started[:7] == ["ann0", "bob0", "ann1", "bob1", "ann2", "bob2", "ann3"]


def test_a_trial_that_needs_more_room_is_not_overtaken(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    """The second trial needs an empty cluster, so no trial behind it may start while it waits."""

    class Narrow(FakeExecutor):
        def launch(self, kind: WorkKind, digest: str) -> bool:
            if digest == store.trials(sweep_id)[1].digest and self._work:
                return False
            return super().launch(kind, digest)

    sweep_id = add_sweep(4)
    executor = Narrow(store, name="w")
    assert run(store, executor, sweep_id)
    order = [trial.digest for trial in store.trials(sweep_id)]
    assert [digest for kind, digest in executor.launched if kind is TRAIN] == order
    assert states(store, sweep_id) == {TrialState.COMPLETED: 4}


def test_an_action_that_fails_because_of_a_change_is_planned_again(
    store: SweepStore, add_sweep: Callable[[int], str], caplog: pytest.LogCaptureFixture
) -> None:
    class Surprised(FakeExecutor):
        def launch(self, kind: WorkKind, digest: str) -> bool:
            if not self.launched:
                self.launched.append((kind, digest))
                store.trial("deleted meanwhile")
            return super().launch(kind, digest)

    sweep_id = add_sweep(2)
    assert run(store, Surprised(store, name="w"), sweep_id)
    assert states(store, sweep_id) == {TrialState.COMPLETED: 2}
    assert "deleted meanwhile" in caplog.text


def test_a_worker_that_is_too_late_for_its_trial_is_ended(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    """Two coordinators run a sweep, and one has no room on the cluster until the other is done."""
    sweep_id = add_sweep(1)
    executor = FakeExecutor(store)
    coordinator = Coordinator(store, executor, poll_seconds=0)
    assert not coordinator.round((sweep_id,))
    assert executor.busy() == {"w1": "t0"}
    for kind in (TRAIN, EVAL):
        held = store.claim("t0", kind, "elsewhere@another-host:1", LEASE)
        assert held is not None
        store.finish(held, VERDICT[kind])
    assert not coordinator.round((sweep_id,)), "this round only marks the sweep as finished"
    assert coordinator.round((sweep_id,))
    assert executor.killed == ["w1"]


def test_a_sweep_that_the_cluster_can_never_run_is_paused_with_the_reason(
    store: SweepStore, add_sweep: Callable[[int], str]
) -> None:
    class Small(FakeExecutor):
        def launch(self, kind: WorkKind, digest: str) -> bool:
            raise CannotRun(
                "runtime.workers=64: needs 64 CPUs, and the cluster has 2; ask for less"
            )

    sweep_id = add_sweep(2)
    executor = Small(store)
    run(store, executor, sweep_id)
    paused = store.sweep(sweep_id)
    assert paused.state is SweepState.PAUSED
    assert "needs 64 CPUs, and the cluster has 2" in str(paused.note)
    store.cancel(sweep_id)
    assert states(store, sweep_id) == {TrialState.CANCELLED: 2}
