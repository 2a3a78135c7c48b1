"""Tests of trials with two workers, with the store and Ray Train."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import ray

from evenload.pipeline.errors import PeerLost
from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.shards import LoadLogSink, read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import AttemptState, TrialRecord, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.coordinator import Coordinator
from evenload.pipeline.sweep.worker_id import name_of
from evenload.workers.actors import data_parallel
from evenload.workers.actors.actor import SinkFactory
from evenload.workers.actors.data_parallel import GroupActor
from evenload.workers.actors.ray_executor import RayExecutor
from evenload.workers.actors.train_actor import TrainActor

pytestmark = pytest.mark.ray
Observer = Callable[[Sequence[TrialRecord]], None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def sink_factory() -> SinkFactory:
    # Defined in a function, so that Ray sends it by value: workers cannot import tests.
    def make(settings: Settings, run: RunIdentity) -> LoadLogSink:
        return LoadLogSink(settings.trial_dir(run.digest))

    return make


@pytest.fixture
def executor(cluster: None, settings: Settings, sink_factory: SinkFactory) -> Iterator[RayExecutor]:
    with closing(RayExecutor(settings, sink_factory, train_slots=2)) as executor:
        yield executor


def run(
    store: SweepStore, executor: RayExecutor, sweep_id: str, observer: Observer | None = None
) -> bool:
    return Coordinator(store, executor, observer=observer, poll_seconds=0.1).run(sweep_id)


def process_of_rank_1() -> int:
    """The pid of the second process of the group, which the store does not name."""
    (pid,) = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and "rank-001.log" in open_files(entry)
    ]
    return pid


def open_files(process: Path) -> set[str]:
    try:
        return {os.path.basename(os.readlink(link)) for link in (process / "fd").iterdir()}
    except OSError:
        return set()


def assert_equal(settings: Settings, steps: int) -> None:
    """Two workers give the same bits as one that computes both halves; see test_ranks."""
    two, one = (read_history(settings.trial_dir(digest)) for digest in ("t0", "t1"))
    assert two.step_S.tolist() == list(range(1, steps + 1))
    np.testing.assert_array_equal(two.count_SLE, one.count_SLE)
    np.testing.assert_array_equal(two.bias_SLE, one.bias_SLE)
    np.testing.assert_array_equal(two.scalars["loss"], one.scalars["loss"])


# Ray Train asks Ray Data for its defaults in this process.
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_a_group_trains_a_trial_with_the_same_result_as_one_worker(
    store: SweepStore, settings: Settings, sink_factory: SinkFactory, add_sweep: Callable[..., str]
) -> None:
    add_sweep([2, 1], axis="runtime.workers", steps=20, micro_batch_sequences=2)
    group = GroupActor("group", settings, sink_factory, resources={})
    assert group.work("t0") is TrialState.TRAINED
    assert group.work("t0") is None, "it is trained already"
    assert TrainActor("alone", settings, sink_factory).work("t1") is TrialState.TRAINED
    assert_equal(settings, steps=20)
    (attempt,) = store.attempts("t0")
    assert name_of(attempt.worker) == "group"
    together, alone = (store.trial(digest).result for digest in ("t0", "t1"))
    assert together["train_loss"] == alone["train_loss"]
    assert together["count_check"] == 1.0
    assert not (settings.root / "ray_train" / "t0").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_the_result_of_a_broken_group_depends_on_the_state_in_the_store(
    store: SweepStore,
    settings: Settings,
    sink_factory: SinkFactory,
    add_sweep: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.train import WorkerGroupError

    add_sweep([0, 1, 2, 3], workers=2)
    monkeypatch.setattr(data_parallel, "ray", MagicMock())  # no cluster: it takes 7 s to start

    class Broken:
        """A group whose rank 1 dies after `worker` has claimed the trial."""

        def __init__(self, worker: str | None, state: TrialState | None = None) -> None:
            self.worker, self.state = worker, state

        def fit(self) -> None:
            if self.worker:
                claim = store.claim(digest, WorkKind.TRAIN, self.worker, 60)
                if claim and self.state:
                    store.finish(claim, self.state, {}, error="no")
            raise WorkerGroupError("a long text", {1: ValueError("out of memory\nand more")})

    def work(group: Broken) -> TrialState | None:
        monkeypatch.setattr(data_parallel, "_trainer", lambda task, resources: group)
        return GroupActor("group", settings, sink_factory, resources={}).work(digest)

    digest = "t0"
    with pytest.raises(PeerLost, match=r"^rank 1: out of memory$"):
        work(Broken(worker=None))
    digest = "t1"
    with pytest.raises(PeerLost, match=r"^rank 1: out of memory$"):
        work(Broken("group@host:1"))
    digest = "t2"
    assert work(Broken("other@host:1")) is None
    digest = "t3"
    assert work(Broken("group@host:1", TrialState.FAILED)) is TrialState.FAILED


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_rank_is_a_lost_attempt_and_the_retry_resumes_from_its_checkpoint(
    store: SweepStore, executor: RayExecutor, settings: Settings, add_sweep: Callable[..., str]
) -> None:
    killed: list[int] = []

    def kill(trials: Sequence[TrialRecord]) -> None:
        checkpoints = settings.trial_dir("t0") / "checkpoints"
        if not killed and any(checkpoints.glob("step-*.pt")):
            killed.append(process_of_rank_1())
            os.kill(killed[0], signal.SIGKILL)

    sweep_id = add_sweep([2, 1], axis="runtime.workers", steps=60, micro_batch_sequences=2)
    assert run(store, executor, sweep_id, kill)
    together, alone = store.trials(sweep_id)
    assert (together.state, together.failures) == (TrialState.COMPLETED, 1)
    assert alone.state is TrialState.COMPLETED
    lost, retried, _ = store.attempts("t0")
    assert (lost.state, retried.state) == (AttemptState.LOST, AttemptState.DONE)
    assert "rank 1: " in str(lost.exit_reason)
    assert_equal(settings, steps=60)
    assert together.result["val_loss"] == alone.result["val_loss"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_group_releases_its_trial_on_request_and_fails_like_one_worker(
    store: SweepStore, executor: RayExecutor, settings: Settings, add_sweep: Callable[..., str]
) -> None:
    sweep_id = add_sweep([1e18, 1e-3], axis="train.learning_rate", workers=2, steps=600)
    coordinator: Coordinator

    def stop(trials: Sequence[TrialRecord]) -> None:
        if trials[1].progress is not None:
            coordinator.stop()

    coordinator = Coordinator(store, executor, observer=stop, poll_seconds=0.1)
    assert not coordinator.run(sweep_id)
    failed, stopped = store.trials(sweep_id)
    assert (failed.state, failed.failures, failed.attempt) == (TrialState.FAILED, 0, 1)
    assert "FloatingPointError" in str(failed.error)
    assert (stopped.state, stopped.failures) == (TrialState.QUEUED, 0)
    assert store.attempts("t1")[0].state is AttemptState.RELEASED
    newest = max((settings.trial_dir("t1") / "checkpoints").glob("step-*.pt"))
    assert 0 < int(newest.stem.removeprefix("step-")) < 3000
