"""MLflow follows the store and the shards, without a call in any trial."""

from __future__ import annotations

import errno
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_STATE
from mlflow.tracking import MlflowClient

from evenload.pipeline.records import mlflow_runs
from evenload.pipeline.records.mlflow_runs import MlflowRuns
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep import projection as module
from evenload.pipeline.sweep.projection import Projection, projecting


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home whose MLflow is migrated, which takes seconds; every test has a store of its own."""
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    mlflow_runs.prepare(settings)
    return settings


@pytest.fixture
def settings(prepared: Settings, tmp_path: Path) -> Settings:
    return prepared.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'store.db'}"})


@pytest.fixture
def store(settings: Settings) -> Iterator[SweepStore]:
    store = SweepStore(settings.store_url)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def client(settings: Settings) -> MlflowClient:
    return MlflowClient(tracking_uri=settings.mlflow_uri)


@pytest.fixture
def add(store: SweepStore, tmp_path: Path) -> Callable[..., str]:
    """Stores a sweep with trials of these digests; their prefix keeps tests apart."""

    def add_sweep(*digests: str) -> str:
        base = {
            "model": {"preset": "tiny"},
            "balancer": {"kind": "none"},
            "train": {"steps": 10, "batch_sequences": 2, "seq_len": 32},
            "runtime": {"device": "cpu", "backend": "torch"},
        }
        name = f"{tmp_path.name[-20:]}-{digests[0]}".replace("_", "-")
        spec = SweepSpec(name=name, base=base, axes={"train.seed": list(range(len(digests)))})
        return store.add_sweep(spec, list(zip(digests, spec.expand(), strict=True)))

    return add_sweep


def end(store: SweepStore, digest: str, state: TrialState = TrialState.COMPLETED) -> None:
    for kind in (WorkKind.TRAIN, WorkKind.EVAL):
        claim = store.claim(digest, kind, "w", 60)
        assert claim is not None
        if state is TrialState.FAILED:
            store.finish(claim, state, error="ValueError: no")
            return
        store.finish(claim, TrialState.TRAINED if kind is WorkKind.TRAIN else state, {"x": 1.0})


def status(client: MlflowClient, run_id: str | None) -> str:
    assert run_id is not None
    return client.get_run(run_id).info.status


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the calls of MLflow's client by name."""
    counted: Counter[str] = Counter()

    def counting(name: str, method: Any) -> Any:
        def call(*arguments: Any, **fields: Any) -> Any:
            counted[name] += 1
            return method(*arguments, **fields)

        return call

    for name, method in inspect.getmembers(MlflowClient, inspect.isfunction):
        if not name.startswith("_"):
            monkeypatch.setattr(MlflowClient, name, counting(name, method))
    return counted


def test_runs_follow_their_trials_and_the_sweep(
    settings: Settings, store: SweepStore, client: MlflowClient, add: Callable[..., str]
) -> None:
    sweep_id = add("good", "bad", "waits", "never")
    projection = Projection(store, settings)
    assert projection.look()
    assert status(client, store.sweep(sweep_id).parent_run_id) == "RUNNING"
    assert store.trial("good").run_id is None, "it has not begun"
    end(store, "good")
    end(store, "bad", TrialState.FAILED)
    assert store.claim("waits", WorkKind.TRAIN, "w", 60)
    assert projection.look()
    runs = {digest: store.trial(digest).run_id for digest in ("good", "bad", "waits")}
    assert [status(client, run) for run in runs.values()] == ["FINISHED", "FAILED", "RUNNING"]
    parents = {client.get_run(str(run)).data.tags["mlflow.parentRunId"] for run in runs.values()}
    assert parents == {store.sweep(sweep_id).parent_run_id}
    store.cancel(sweep_id)
    store.lose("w", "gone")
    assert Projection(store, settings).look()
    assert status(client, runs["waits"]) == "KILLED"
    assert status(client, store.sweep(sweep_id).parent_run_id) == "KILLED"
    assert store.trial("never").run_id is None


def test_a_start_asks_mlflow_nothing_about_sweeps_that_are_over(
    settings: Settings,
    store: SweepStore,
    add: Callable[..., str],
    calls: Counter[str],
) -> None:
    def started() -> int:
        calls.clear()
        projection = Projection(store, settings)
        assert projection.look()
        first = calls.total()
        assert projection.look()
        assert calls.total() == first, "a look without news asks nothing"
        return first

    without = started()
    for name in "abcde":
        sweep_id = add(f"{name}1", f"{name}2")
        end(store, f"{name}1")
        end(store, f"{name}2")
        store.finish_sweep(sweep_id)
    assert Projection(store, settings).look()
    assert started() == without < 10


def test_a_sweep_without_trials_has_no_run(
    settings: Settings, store: SweepStore, add: Callable[..., str]
) -> None:
    listed = store.sweep(add("one"))
    spec = SweepSpec.model_validate(listed.spec | {"name": "refused"})
    submitted = store.submit(spec)
    assert Projection(store, settings).look()
    assert store.sweep(listed.sweep_id).parent_run_id is not None
    assert store.sweep(submitted).parent_run_id is None


def test_an_outage_is_counted_shown_and_made_good(
    settings: Settings,
    store: SweepStore,
    client: MlflowClient,
    add: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep_id = add("only")
    projection = Projection(store, settings)

    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("refused")

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "create_run", away)
        assert not projection.look()
        end(store, "only")
        store.finish_sweep(sweep_id)
        assert not projection.look()
    assert projection.problem == "MLflow: refused"
    (shown,) = store.present()
    assert (shown.role, shown.facts) == ("mlflow", {"tracking_errors": 2})
    assert projection.look()
    assert projection.problem is None
    assert status(client, store.trial("only").run_id) == "FINISHED"
    assert status(client, store.sweep(sweep_id).parent_run_id) == "FINISHED"


def test_a_trial_that_mlflow_refuses_does_not_delay_others(
    settings: Settings,
    store: SweepStore,
    client: MlflowClient,
    add: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add("first", "second")
    end(store, "first")
    end(store, "second")
    whole = MlflowRuns.put_trial

    def refuse(self: MlflowRuns, trial: Any, *arguments: Any) -> None:
        if trial.digest == "first":
            raise MlflowException("no", error_code=INVALID_STATE)
        whole(self, trial, *arguments)

    monkeypatch.setattr(MlflowRuns, "put_trial", refuse)
    projection = Projection(store, settings)
    projection.look()
    projection.look()
    assert status(client, store.trial("second").run_id) == "FINISHED"
    assert projection.errors == 1


def test_it_looks_again_and_again_and_once_more_at_the_end(
    settings: Settings, store: SweepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    monkeypatch.setattr(module, "FIRST_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(Projection, "look", lambda self: bool(looks.append(self) or True))
    with projecting(store, settings) as projection:
        while len(looks) < 3:
            pass
    seen = len(looks)
    assert set(looks) == {projection}
    assert seen > 3


def test_a_hurried_end_does_not_wait_for_the_import_of_mlflow(
    store: SweepStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Projection] = []
    monkeypatch.setattr(Projection, "look", lambda self: bool(looked.append(self)))
    with projecting(store, settings) as projection:
        projection.is_hurried = True
    assert not looked
    with projecting(store, settings) as projection:
        projection._runs = MlflowRuns(settings)
        projection.is_hurried = True
    assert looked == [projection]


def test_a_full_disk_does_not_end_the_thread_of_the_projection(
    store: SweepStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "evenload.db")

    monkeypatch.setattr(SweepStore, "announce", full)
    monkeypatch.setattr(SweepStore, "now", full)
    projection = Projection(store, settings)
    assert not projection.look()
    assert "No space left" in str(projection.problem)
