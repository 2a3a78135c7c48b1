"""Tests of the coordinator, the store and real actors together on one local cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError

from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.shards import LoadLogSink, read_history
from evenload.pipeline.records.sinks import default_sinks
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import AttemptState, TrialRecord, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.coordinator import Coordinator
from evenload.workers.actors import ray_executor
from evenload.workers.actors.ray_executor import RayExecutor

# The default run covers the same path with `evenload serve`, `sweep run` and a short fault test.
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def executor(settings: Settings) -> Iterator[RayExecutor]:
    # Defined in a function, so that Ray sends it by value: workers cannot import tests.
    def sink_factory(settings: Settings, run: RunIdentity) -> LoadLogSink:
        return LoadLogSink(settings.trial_dir(run.digest))

    with closing(RayExecutor(settings, sink_factory, train_slots=2)) as executor:
        yield executor


Observer = Callable[[Sequence[TrialRecord]], None]


def run(
    store: SweepStore, executor: RayExecutor, sweep_id: str, observer: Observer | None = None
) -> bool:
    return Coordinator(store, executor, observer=observer, poll_seconds=0.1).run(sweep_id)


def pid_of(worker: str | None) -> int:
    assert worker is not None
    return int(worker.rpartition(":")[2])


def log_of(settings: Settings, digest: str, attempt: str) -> str:
    return (settings.trial_dir(digest) / "logs" / f"attempt-{attempt}.log").read_text()


def test_a_sweep_ends_with_its_trials_complete_and_the_one_that_raises_failed(
    store: SweepStore, executor: RayExecutor, add_sweep: Callable[..., str]
) -> None:
    sweep_id = add_sweep([3e-3, 1e-3, 2e-3, 1e18], axis="train.learning_rate")
    assert run(store, executor, sweep_id)
    *good, bad = store.trials(sweep_id)
    assert [trial.state for trial in good] == [TrialState.COMPLETED] * 3
    assert len({trial.result["val_loss"] for trial in good}) == 3
    assert bad.state is TrialState.FAILED
    assert "Traceback" in str(bad.error)
    assert "FloatingPointError" in str(bad.error)
    assert (bad.attempt, bad.failures) == (1, 0)
    workers = [attempt.worker for trial in good for attempt in store.attempts(trial.digest)]
    assert len(workers) == 6
    assert len({pid_of(worker) for worker in workers}) <= 3, "actors must be used again"
    assert executor.busy() == {}


def test_the_settings_limit_how_many_trials_are_scored_at_once(
    settings: Settings, store: SweepStore
) -> None:
    more = settings.model_copy(update={"eval_slots": 3})
    with closing(RayExecutor(more, default_sinks, train_slots=1)) as executor:
        assert executor.free() == {WorkKind.TRAIN: 1, WorkKind.EVAL: 3}


def test_threads_of_trials_do_not_share_cores(
    settings: Settings, store: SweepStore, add_sweep: Callable[..., str]
) -> None:
    """On two cores a trial with two threads trains alone, and so does one with three."""
    training: list[int] = []

    def sink_factory(settings: Settings, run: RunIdentity) -> LoadLogSink:
        return LoadLogSink(settings.trial_dir(run.digest))

    def count_training(trials: Sequence[TrialRecord]) -> None:
        training.append(sum(trial.state is TrialState.TRAINING for trial in trials))

    sweep_id = add_sweep([2, 3], axis="runtime.threads", steps=40)
    with closing(RayExecutor(settings, sink_factory)) as executor:
        assert run(store, executor, sweep_id, count_training)
    assert [trial.state for trial in store.trials(sweep_id)] == [TrialState.COMPLETED] * 2
    assert max(training) == 1


def test_a_killed_actor_is_replaced_and_its_trial_resumes_from_its_checkpoint(
    store: SweepStore, executor: RayExecutor, settings: Settings, add_sweep: Callable[..., str]
) -> None:
    """The second trial is the same but one step longer, and undisturbed; its steps are equal."""
    sweep_id = add_sweep([300, 301], axis="train.steps", schedule="constant")
    killed: list[int] = []

    def kill(trials: Sequence[TrialRecord]) -> None:
        checkpoints = settings.trial_dir("t0") / "checkpoints"
        if not killed and any(checkpoints.glob("step-*.pt")):
            killed.append(pid_of(trials[0].worker))
            os.kill(killed[0], signal.SIGKILL)

    assert run(store, executor, sweep_id, kill)
    first, second = store.trials(sweep_id)
    assert (first.state, first.failures) == (TrialState.COMPLETED, 1)
    assert (second.state, second.failures) == (TrialState.COMPLETED, 0)
    lost, retried, _ = store.attempts("t0")
    assert (lost.state, retried.state) == (AttemptState.LOST, AttemptState.DONE)
    assert "worker lost" in str(lost.exit_reason)
    assert "starts after step 0\n" in log_of(settings, "t0", "001-train")
    assert "starts after step 0\n" not in log_of(settings, "t0", "002-train")
    disturbed, undisturbed = (read_history(settings.trial_dir(d)) for d in ("t0", "t1"))
    assert list(disturbed.step_S) == list(range(1, 301))
    assert (disturbed.count_SLE == undisturbed.count_SLE[:300]).all()
    assert (disturbed.scalars["loss"] == undisturbed.scalars["loss"][:300]).all()


def test_a_worker_that_ray_ends_for_its_memory_costs_its_trial_a_retry(
    store: SweepStore,
    executor: RayExecutor,
    add_sweep: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray raises a special error for this."""
    sweep_id = add_sweep([0], steps=300)
    get, killed = ray.get, []

    def kill(trials: Sequence[TrialRecord]) -> None:
        if not killed and trials[0].worker is not None:
            killed.append(trials[0].worker)
            os.kill(pid_of(trials[0].worker), signal.SIGKILL)

    def get_or_run_out_of_memory(reference: Any) -> Any:
        try:
            return get(reference)
        except ActorDiedError as died:
            raise OutOfMemoryError("the node ran out of memory") from died

    monkeypatch.setattr(ray_executor.ray, "get", get_or_run_out_of_memory)
    assert run(store, executor, sweep_id, kill)
    (trial,) = store.trials(sweep_id)
    assert (trial.state, trial.failures) == (TrialState.COMPLETED, 1)
    assert "out of memory" in str(store.attempts("t0")[0].exit_reason)


def test_on_a_stop_request_trials_are_released_and_the_next_run_resumes(
    store: SweepStore, executor: RayExecutor, settings: Settings, add_sweep: Callable[..., str]
) -> None:
    sweep_id = add_sweep([0], steps=3000)
    coordinator: Coordinator

    def stop(trials: Sequence[TrialRecord]) -> None:
        if trials[0].progress is not None:
            coordinator.stop()

    coordinator = Coordinator(store, executor, observer=stop, poll_seconds=0.1)
    assert not coordinator.run(sweep_id)
    (trial,) = store.trials(sweep_id)
    assert (trial.state, trial.failures) == (TrialState.QUEUED, 0)
    assert store.attempts("t0")[0].state is AttemptState.RELEASED
    newest = max((settings.trial_dir("t0") / "checkpoints").glob("step-*.pt"))
    assert 0 < int(newest.stem.removeprefix("step-")) < 3000


def test_a_worker_on_a_node_that_is_removed_releases_its_trial_as_preempted(
    store: SweepStore,
    executor: RayExecutor,
    add_sweep: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep_id = add_sweep([0], steps=400)
    monkeypatch.setattr(executor, "_is_local", False)  # a private cluster is never drained

    def drain(trials: Sequence[TrialRecord]) -> None:
        leaving = trials[0].progress is not None and trials[0].preemptions == 0
        nodes = frozenset(node["NodeID"] for node in ray.nodes()) if leaving else frozenset()
        monkeypatch.setattr(ray_executor, "draining_nodes", lambda: nodes)

    assert run(store, executor, sweep_id, drain)
    (trial,) = store.trials(sweep_id)
    assert (trial.state, trial.preemptions, trial.failures) == (TrialState.COMPLETED, 1, 0)
    assert store.attempts("t0")[0].state is AttemptState.PREEMPTED


def test_workers_that_cannot_start_end_the_run_with_the_reason(
    settings: Settings, store: SweepStore, add_sweep: Callable[..., str]
) -> None:
    class Unloadable:
        """Fails to load on a worker, like a missing package."""

        def __reduce__(self) -> Any:
            return os.mkdir, ("/proc/no",)

    sweep_id = add_sweep([0])
    with (
        closing(RayExecutor(settings, Unloadable(), train_slots=1)) as executor,  # type: ignore[arg-type]
        pytest.raises(RuntimeError, match="workers die before they take a trial"),
    ):
        run(store, executor, sweep_id)
    assert store.trial("t0").attempt == 0
