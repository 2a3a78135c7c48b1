from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import RestException
from mlflow.tracking import MlflowClient

from evenload.pipeline.figures.evaluation import Detail
from evenload.pipeline.records import mlflow_runs
from evenload.pipeline.records.mlflow_runs import (
    EXPERIMENT,
    MlflowRuns,
    prepare,
    probe,
    remove_runs,
)
from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import SweepRecord, SweepState, TrialState
from tests.pipeline.records.mlflow_runs import Projected, logged_steps, trial_runs

Identity = Callable[..., RunIdentity]
Record = Callable[..., StepRecord]


def test_every_tenth_step_is_a_point_and_the_last_one_too(
    client: MlflowClient, projected: Projected, record: Record
) -> None:
    projected.record([record(step) for step in (*range(1, 36), 100)])
    projected.project(TrialState.TRAINED)
    assert logged_steps(client, projected.run_id) == [10, 20, 30, 100]
    assert client.get_run(projected.run_id).data.metrics["loss"] == 4.0


def test_a_step_that_may_be_trained_again_is_no_point_yet(
    client: MlflowClient, projected: Projected, record: Record
) -> None:
    projected.record([record(step) for step in range(1, 31)], checkpoint=30)
    projected.record([record(step) for step in range(31, 56)])
    projected.project()
    assert logged_steps(client, projected.run_id) == [10, 20, 30]
    projected.project(TrialState.QUEUED)
    assert logged_steps(client, projected.run_id) == [10, 20, 30]
    projected.project(TrialState.FAILED, error="loss=nan")
    assert logged_steps(client, projected.run_id) == [10, 20, 30, 40, 50]


def test_a_whole_run_has_at_most_64_keys_and_none_per_expert(
    client: MlflowClient, projected: Projected, record: Record
) -> None:
    projected.record([record(10)])
    projected.project(TrialState.COMPLETED, result={f"figure_{n}": float(n) for n in range(20)})
    keys = client.get_run(projected.run_id).data.metrics.keys()
    assert 40 < len(keys) <= 64
    assert not [key for key in keys if "layer" in key or "expert" in key]


def test_params_are_the_whole_spec_and_tags_name_trial_rule_and_attempt(
    settings: Settings, client: MlflowClient, identity: Identity
) -> None:
    run = identity(tags={"commit": "abc123", "core": "0" * 12})
    projected = Projected(settings, run)
    runs = MlflowRuns(settings)
    sweep = dataclasses.replace(_sweep(SweepState.ACTIVE), parent_run_id="f" * 32)
    runs.put_trial(projected.trial, sweep, projected.folder, projected._adopt)
    data = client.get_run(projected.run_id).data
    assert data.params["balancer.step_size"] == "0.01"
    assert data.params["balancer.target"] == "null"
    assert 40 < len(data.params) <= 100
    expected = {
        "digest": run.digest,
        "sweep": "demo-1a2b3c",
        "rule": "sign 0.01",
        "attempt": "1",
        "commit": "abc123",
        "mlflow.parentRunId": "f" * 32,
        "mlflow.runName": "sign 0.01, 16 experts, seed 0",
    }
    assert expected.items() <= data.tags.items()
    assert data.tags["version.torch"] == importlib.metadata.version("torch")


def test_corpus_is_the_runs_dataset_also_if_another_run_inserts_it_at_the_same_moment(
    settings: Settings, client: MlflowClient, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow on PostgreSQL answers the second of two simultaneous inserts like this."""
    log_inputs, refused = MlflowClient.log_inputs, []

    def beaten(self: MlflowClient, run_id: str, *arguments: Any) -> None:
        if not refused:
            refused.append(run_id)
            raise RestException({"error_code": "BAD_REQUEST", "message": "duplicate dataset_pk"})
        log_inputs(self, run_id, *arguments)

    monkeypatch.setattr(MlflowClient, "log_inputs", beaten)
    projected = Projected(settings, identity(tags={"corpus": "c0ffee"}))
    with pytest.raises(RestException, match="duplicate"):
        projected.project()
    for _ in range(2):
        projected.project(afresh=True)
    assert refused == [projected.run_id]
    (found,) = client.get_run(projected.run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("python_stdlib", "c0ffee")


def test_a_resumed_trial_keeps_its_run_and_writes_no_step_twice(
    settings: Settings, client: MlflowClient, identity: Identity, record: Record
) -> None:
    first = Projected(settings, identity())
    first.record([record(step) for step in range(1, 41)], checkpoint=40)
    first.project()
    run = identity(attempt=2, resumed_from_step=20)  # from an older checkpoint, by another process
    second = Projected(settings, run, run_id=first.run_id)
    second.record([record(step, seconds=0.75) for step in range(21, 61)], checkpoint=60)
    second.project(attempt=2)
    assert len(trial_runs(client)) == 1
    assert logged_steps(client, first.run_id) == [10, 20, 30, 40, 50, 60]
    history = client.get_metric_history(first.run_id, "bias_step")
    assert [metric.value for metric in history[1:]] == pytest.approx([0.001] * 5, rel=1e-4)
    tags = client.get_run(first.run_id).data.tags
    assert (tags["attempt"], tags["resumed_from_step"]) == ("2", "20")


def test_two_writers_and_a_second_end_leave_each_point_once(
    settings: Settings, client: MlflowClient, identity: Identity, record: Record
) -> None:
    projected = Projected(settings, identity())
    projected.record([record(step) for step in range(1, 31)], checkpoint=30)
    projected.project()
    others = [MlflowRuns(settings) for _ in range(2)]
    for other in others:
        other.put_trial(projected.trial, None, projected.folder, projected._adopt)
    projected.record([record(step) for step in range(31, 101)])
    ended = dataclasses.replace(
        projected.trial, state=TrialState.COMPLETED, result={"max_vio": 0.4, "val_loss": 2.0}
    )
    for other in (*others, *others, MlflowRuns(settings)):
        other.put_trial(ended, None, projected.folder, projected._adopt)
    assert logged_steps(client, projected.run_id) == list(range(10, 101, 10))
    for key in ("final/max_vio", "val_loss"):
        assert logged_steps(client, projected.run_id, key) == [100]


def test_a_run_that_two_create_at_once_exists_once(
    settings: Settings, client: MlflowClient, projected: Projected
) -> None:
    projected.project()
    late = dataclasses.replace(projected.trial, run_id=None)
    MlflowRuns(settings).put_trial(late, None, projected.folder, lambda _: projected.run_id)
    assert [run.info.run_id for run in trial_runs(client)] == [projected.run_id]


def test_shards_and_spec_are_artifacts_of_an_ended_run(
    client: MlflowClient,
    projected: Projected,
    record: Record,
    evaluation: EvalRecord,
    detail: Detail,
) -> None:
    projected.record([record(step) for step in range(1, 31)], checkpoint=30)
    projected.project()
    assert client.list_artifacts(projected.run_id) == []
    projected.record([record(step) for step in range(31, 41)])
    projected.sink.log_eval(dataclasses.replace(evaluation, detail=detail))
    projected.sink.close()
    uri = "file:///checkpoints/step-40.pt"
    projected.project(TrialState.COMPLETED, checkpoint_uri=uri)
    names = [file.path for file in client.list_artifacts(projected.run_id, "expert_load")]
    assert names == [
        "expert_load/eval-00000100.parquet",
        "expert_load/manifest.json",
        "expert_load/part-00000001-00000030.parquet",
        "expert_load/part-00000031-00000040.parquet",
    ]
    assert len(client.list_artifacts(projected.run_id, "steps")) == 2
    assert len(client.list_artifacts(projected.run_id, "evaluation")) == 4
    assert client.get_run(projected.run_id).data.tags["checkpoint"] == uri
    assert "spec.json" in [file.path for file in client.list_artifacts(projected.run_id)]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (TrialState.QUEUED, "RUNNING"),
        (TrialState.TRAINED, "RUNNING"),
        (TrialState.EVALUATING, "RUNNING"),
        (TrialState.COMPLETED, "FINISHED"),
        (TrialState.FAILED, "FAILED"),
        (TrialState.CANCELLED, "KILLED"),
    ],
)
def test_run_ends_as_its_trial_does_and_not_before(
    client: MlflowClient, projected: Projected, state: TrialState, status: str
) -> None:
    projected.project(state)
    assert client.get_run(projected.run_id).info.status == status


def test_failed_trial_keeps_its_traceback_and_a_retry_runs_again(
    client: MlflowClient, projected: Projected, tmp_path: Path
) -> None:
    projected.project(TrialState.FAILED, error="Traceback\n  ...\nValueError: loss=nan\n")
    run_id = projected.run_id
    assert client.get_run(run_id).data.tags["error"] == "ValueError: loss=nan"
    text = Path(client.download_artifacts(run_id, "error.txt", str(tmp_path)))
    assert text.read_text().startswith("Traceback")
    projected.project(TrialState.QUEUED, error=None)
    assert client.get_run(run_id).info.status == "RUNNING"


def test_nan_is_a_point_and_inf_is_a_tag(
    client: MlflowClient, projected: Projected, record: Record
) -> None:
    projected.record([record(10, loss=math.nan, grad_norm=math.inf)])
    projected.project(TrialState.TRAINED)
    run = client.get_run(projected.run_id)
    assert math.isnan(run.data.metrics["loss"])
    assert "grad_norm" not in run.data.metrics
    assert run.data.tags["infinite.grad_norm"] == "inf at step 10"


def test_the_time_of_a_point_is_that_of_the_training(
    client: MlflowClient, projected: Projected, record: Record
) -> None:
    projected.record([record(step) for step in range(1, 21)])
    projected.project(TrialState.TRAINED)
    start = round(1000 * datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    history = client.get_metric_history(projected.run_id, "loss")
    assert [metric.timestamp - start for metric in history] == [5000, 10_000]


@pytest.mark.slow
def test_two_processes_can_prepare_an_empty_home_at_once(tmp_path: Path) -> None:
    context = get_context("spawn")
    home = tmp_path / "home"
    workers = [context.Process(target=_prepare_home, args=(home,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    client = MlflowClient(tracking_uri=Settings(home=home).mlflow_uri)
    assert sorted(one.name for one in client.search_experiments()) == ["Default", EXPERIMENT]


def test_of_several_that_prepare_at_once_one_migrates_while_the_others_wait(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for MLflow's migration, which takes seconds. flock parts threads, too."""
    databases: list[str] = []

    def opened(tracking_uri: str) -> Path:
        return Path(tracking_uri.removeprefix("sqlite:///"))

    def experiment_id(database: Path, _: Settings) -> str:
        databases.append(database.name)
        assert database.name == "mlflow.db" or not database.exists(), "another one migrates it"
        database.touch()
        time.sleep(0.02)
        return "1"

    monkeypatch.setattr(mlflow_runs, "MlflowClient", opened)
    monkeypatch.setattr(mlflow_runs, "_experiment_id", experiment_id)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(prepare, [settings] * 4))
    assert databases == ["mlflow.db.new", *["mlflow.db"] * 4]


def _prepare_home(home: Path) -> None:
    prepare(Settings(home=home))


def _half_made(database: Path) -> None:
    """What a migration leaves that was killed."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE entity_associations (association_id VARCHAR(36))")


def test_a_killed_migration_is_made_again(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    _half_made(tmp_path / "mlflow.db.new")
    prepare(settings)
    assert MlflowClient(settings.mlflow_uri).get_experiment_by_name(EXPERIMENT) is not None
    assert not (tmp_path / "mlflow.db.new").exists()


def test_a_damaged_database_is_named_with_what_helps(tmp_path: Path) -> None:
    _half_made(tmp_path / "mlflow.db")
    with pytest.raises(OSError, match="entity_associations already exists; without it"):
        prepare(Settings(home=tmp_path))


def test_artifacts_go_below_the_home(settings: Settings, client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert experiment.artifact_location.endswith("artifacts")


def test_sweep_has_one_parent_that_ends_with_it_and_runs_again_if_it_is_extended(
    settings: Settings, client: MlflowClient
) -> None:
    runs, stored = MlflowRuns(settings), []

    def adopt(run_id: str) -> str:
        stored.append(run_id)
        return run_id

    def put(state: SweepState) -> str:
        run_id = runs.put_sweep(
            dataclasses.replace(_sweep(state), parent_run_id=next(iter(stored), None)), adopt
        )
        assert [run_id] == stored
        return client.get_run(run_id).info.status

    states = (SweepState.ACTIVE, SweepState.FINISHED, SweepState.ACTIVE, SweepState.CANCELLED)
    assert [put(state) for state in states] == ["RUNNING", "FINISHED", "RUNNING", "KILLED"]
    assert client.get_run(stored[0]).data.tags["sweep"] == "demo-1a2b3c"


def test_runs_that_a_user_removed_are_left_alone(
    client: MlflowClient, projected: Projected, record: Record
) -> None:
    projected.project()
    client.delete_run(projected.run_id)
    projected.record([record(10)])
    projected.project(TrialState.CANCELLED, afresh=True)
    run = client.get_run(projected.run_id)
    assert (run.info.status, run.data.metrics) == ("RUNNING", {})
    remove_runs(projected.settings, [projected.run_id, "0" * 32])
    assert trial_runs(client) == []


def test_a_run_that_mlflow_has_lost_is_made_again(
    client: MlflowClient, projected: Projected, record: Record
) -> None:
    projected.record([record(10)])
    projected.project(TrialState.COMPLETED, run_id="0" * 32)
    assert projected.run_id != "0" * 32
    assert logged_steps(client, projected.run_id) == [10]


def _sweep(state: SweepState) -> SweepRecord:
    return SweepRecord(
        sweep_id="demo-1a2b3c",
        name="demo",
        spec={"name": "demo"},
        state=state,
        parent_run_id=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        finished_at=None,
    )


def test_probe_finds_nothing_wrong_with_a_fresh_home(settings: Settings) -> None:
    assert probe(settings) is None
    assert not settings.root.exists()
