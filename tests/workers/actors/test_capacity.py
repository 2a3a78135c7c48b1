"""What the cluster can never give is refused; what waits for room hears its user. Without Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from evenload.pipeline.errors import CannotRun
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState, WorkKind
from evenload.workers.actors import data_parallel, ray_executor
from evenload.workers.actors.data_parallel import GroupActor
from evenload.workers.actors.ray_executor import Need, RayExecutor


def executor_on(monkeypatch: pytest.MonkeyPatch, seen: dict[str, float], **settings: Any) -> Any:
    executor = object.__new__(RayExecutor)
    executor._is_local, executor._most = False, {}
    executor._settings = Settings(**settings)
    monkeypatch.setattr(ray_executor.ray, "cluster_resources", lambda: seen)
    return executor


def need(workers: int, threads: int = 1, device: str = "cpu") -> Need:
    return Need(WorkKind.TRAIN, device, threads, workers)


def test_a_trial_that_needs_more_than_all_nodes_have_is_refused_with_both_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = {"CPU": 2.0}
    executor = executor_on(monkeypatch, seen)
    executor._check_possible(need(2))
    with pytest.raises(CannotRun, match=r"workers=64.*needs 64 CPUs, and the cluster has 2;"):
        executor._check_possible(need(64))
    with pytest.raises(CannotRun, match="needs 2 GPUs, and the cluster has 0;"):
        executor._check_possible(need(2, device="cuda"))
    seen["CPU"] = 0.0  # a node that restarts refuses nothing that ran before
    executor._check_possible(need(2))


def test_a_group_whose_nodes_left_for_good_is_ended_and_refused_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, now, killed = {"CPU": 8.0}, [0.0], []
    executor = executor_on(monkeypatch, seen)
    monkeypatch.setattr(ray_executor.time, "monotonic", lambda: now[0])
    state = {"waits": TrialState.QUEUED, "fits": TrialState.QUEUED, "runs": TrialState.TRAINING}
    needs = {"waits": need(8), "fits": need(2), "runs": need(8)}
    executor._workers = {n: SimpleNamespace(need=needs[n], digest=n) for n in needs}
    executor._store = SimpleNamespace(trial=lambda digest: SimpleNamespace(state=state[digest]))
    executor.kill = killed.append
    executor._drop_impossible()
    seen["CPU"], now[0] = 2.0, 200.0
    executor._drop_impossible()
    assert killed == [], "the node may come back"
    now[0] = 301.0
    executor._drop_impossible()
    assert killed == ["waits"]
    with pytest.raises(CannotRun, match="needs 8 CPUs, and the cluster has 2; ask for less, or"):
        executor._check_possible(needs["waits"])
    seen["CPU"] = 8.0
    executor._check_possible(needs["waits"])


def test_an_autoscaled_cluster_is_asked_for_what_it_can_grow_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = executor_on(monkeypatch, {"CPU": 4.0}, cluster_cores=32)
    executor._check_possible(need(8, threads=4))
    with pytest.raises(CannotRun, match="needs 64 CPUs, and the cluster has 32;"):
        executor._check_possible(need(16, threads=4))


@pytest.mark.parametrize("end", ["cancelled", "stopped", "room"])
def test_a_waiting_group_hears_its_user_and_starts_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    class Store:
        asked = 0

        def is_claimable(self, digest: str, kind: WorkKind) -> bool:
            self.asked += 1
            return end != "cancelled" or self.asked < 3

    group = object.__new__(GroupActor)
    group._store, group._stopping = Store(), False  # type: ignore[assignment]
    group._resources = {"CPU": 0.9, "GPU": 0}
    free = [{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 4.0}] if end == "room" else [{"CPU": 1.0}]
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        group._stopping = end == "stopped" and len(waited) == 2

    monkeypatch.setattr(data_parallel.time, "sleep", sleep)
    monkeypatch.setattr(
        data_parallel.ray, "available_resources", lambda: free[min(len(waited), len(free) - 1)]
    )
    assert group._awaited_room("t0", workers=4) is (end == "room")
    assert len(waited) == 2
