from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import RestException
from mlflow.tracking import MlflowClient

from evenload.pipeline.figures.evaluation import Detail
from evenload.pipeline.records.mlflow_removal import remove_runs
from evenload.pipeline.records.mlflow_sink import (
    EXPERIMENT,
    MlflowSink,
    ensure_parent,
    prepare,
    probe,
    settle,
)
from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import SweepRecord, SweepState, TrialRecord, TrialState
from tests.pipeline.records.mlflow_runs import logged_steps, run_of, start, trial_runs

Identity = Callable[..., RunIdentity]
Record = Callable[..., StepRecord]


def test_every_tenth_step_is_a_point_and_the_last_one_too(
    client: MlflowClient, started: MlflowSink, record: Record
) -> None:
    started.log_steps([record(step) for step in range(1, 36)])
    started.log_steps([record(100)])
    assert logged_steps(client, started) == [10, 20, 30, 100]
    assert run_of(client, started).data.metrics["loss"] == 4.0
    assert started.errors == 0


def test_a_whole_run_has_at_most_64_keys(
    client: MlflowClient, started: MlflowSink, record: Record, evaluation: EvalRecord
) -> None:
    started.log_steps([record(10)])
    started.log_eval(evaluation)
    started.close(TrialState.COMPLETED, {f"figure_{n}": float(n) for n in range(20)})
    keys = run_of(client, started).data.metrics.keys()
    assert len(keys) <= 64
    assert not [key for key in keys if "layer" in key or "expert" in key]


def test_params_are_the_whole_spec_and_fit_into_mlflows_limit(
    client: MlflowClient, started: MlflowSink
) -> None:
    params = run_of(client, started).data.params
    assert params["balancer.step_size"] == "0.01"
    assert params["model.num_experts"] == "16"
    assert params["train.schedule"] == "cosine"
    assert params["balancer.target"] == "null"
    assert 40 < len(params) <= 100


def test_tags_name_the_trial_its_rule_and_the_attempt(
    settings: Settings, client: MlflowClient, identity: Identity
) -> None:
    run = identity(parent_run_id="f" * 32, tags={"commit": "abc123", "core": "0" * 12})
    tags = run_of(client, start(settings, run)).data.tags
    expected = {
        "digest": run.digest,
        "sweep": "demo-1a2b3c",
        "rule": "sign 0.01",
        "attempt": "1",
        "commit": "abc123",
        "mlflow.parentRunId": "f" * 32,
        "mlflow.runName": "sign 0.01",
    }
    assert expected.items() <= tags.items()
    assert tags["version.torch"] == importlib.metadata.version("torch")


def test_corpus_is_the_runs_dataset(
    settings: Settings, client: MlflowClient, identity: Identity
) -> None:
    run = identity(tags={"corpus": "c0ffee"})
    start(settings, run)
    inputs = run_of(client, start(settings, run)).inputs.dataset_inputs
    assert [(one.dataset.name, one.dataset.digest) for one in inputs] == [
        ("python_stdlib", "c0ffee")
    ]


def test_a_dataset_that_another_run_inserts_at_the_same_moment_is_shared(
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
    sink = start(settings, identity(tags={"corpus": "c0ffee"}))
    assert refused == [sink.run_id]
    (found,) = run_of(client, sink).inputs.dataset_inputs
    assert found.dataset.digest == "c0ffee"


def test_next_attempt_continues_the_run_and_writes_no_step_twice(
    settings: Settings, client: MlflowClient, identity: Identity, record: Record
) -> None:
    first = start(settings, identity())
    first.log_steps([record(step) for step in range(1, 41)])
    second = start(settings, identity(attempt=2, resumed_from_step=20))
    second.log_steps([record(step) for step in range(21, 61)])
    assert second.run_id == first.run_id
    assert len(trial_runs(client)) == 1
    assert logged_steps(client, second) == [10, 20, 30, 40, 50, 60]
    tags = run_of(client, second).data.tags
    assert (tags["attempt"], tags["resumed_from_step"]) == ("2", "20")


def test_steps_that_a_killed_attempt_did_not_deliver_come_from_the_shards(
    settings: Settings, client: MlflowClient, identity: Identity, record: Record
) -> None:
    log = LoadLogSink(settings.trial_dir(identity().digest))
    log.start(identity())
    log.log_steps([record(step) for step in range(1, 41)])
    log.checkpoint(40, "file:///x")
    log.log_steps([record(step) for step in range(41, 61)])
    sink = start(settings, identity(attempt=2, resumed_from_step=40))
    sink.log_steps([record(step) for step in range(41, 51)])
    assert logged_steps(client, sink) == [10, 20, 30, 40, 50]
    history = client.get_metric_history(str(sink.run_id), "bias_step")
    assert [metric.value for metric in history[1:]] == pytest.approx([0.001] * 4, rel=1e-4)


def test_shards_and_spec_are_artifacts(
    settings: Settings,
    client: MlflowClient,
    identity: Identity,
    record: Record,
    evaluation: EvalRecord,
    detail: Detail,
) -> None:
    log = LoadLogSink(settings.trial_dir(identity().digest))
    log.start(identity())
    sink = start(settings, identity())
    log.log_steps([record(step) for step in range(1, 31)])
    for one in (log, sink):
        one.checkpoint(30, "file:///checkpoints/step-30.pt")
    log.log_steps([record(step) for step in range(31, 41)])
    sink._upload(last=30)
    names = [file.path for file in client.list_artifacts(str(sink.run_id), "expert_load")]
    assert names == ["expert_load/manifest.json", "expert_load/part-00000001-00000030.parquet"]
    log.log_eval(dataclasses.replace(evaluation, detail=detail))
    for one in (log, sink):
        one.close(TrialState.TRAINED, {})
    assert len(client.list_artifacts(str(sink.run_id), "steps")) == 2
    assert len(client.list_artifacts(str(sink.run_id), "evaluation")) == 4
    assert run_of(client, sink).data.tags["checkpoint"] == "file:///checkpoints/step-30.pt"
    assert "spec.json" in [file.path for file in client.list_artifacts(str(sink.run_id))]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (TrialState.QUEUED, "RUNNING"),
        (TrialState.TRAINED, "RUNNING"),
        (TrialState.COMPLETED, "FINISHED"),
        (TrialState.FAILED, "FAILED"),
        (TrialState.CANCELLED, "KILLED"),
    ],
)
def test_run_ends_as_its_trial_does_and_not_before(
    settings: Settings,
    client: MlflowClient,
    identity: Identity,
    state: TrialState,
    status: str,
) -> None:
    sink = start(settings, identity())
    sink.close(state, {})
    assert run_of(client, sink).info.status == status


def test_failed_trial_keeps_its_traceback_and_a_retry_runs_again(
    settings: Settings, client: MlflowClient, identity: Identity, tmp_path: Path
) -> None:
    sink = start(settings, identity())
    sink.close(TrialState.FAILED, {}, "Traceback\n  ...\nValueError: loss=nan\n")
    assert run_of(client, sink).data.tags["error"] == "ValueError: loss=nan"
    text = Path(client.download_artifacts(str(sink.run_id), "error.txt", str(tmp_path)))
    assert text.read_text().startswith("Traceback")
    retry = start(settings, identity(attempt=2))
    assert run_of(client, retry).info.status == "RUNNING"


def test_evaluation_and_final_figures_are_logged_once(
    settings: Settings, client: MlflowClient, identity: Identity, evaluation: EvalRecord
) -> None:
    for attempt in (1, 2):
        sink = start(settings, identity(attempt=attempt))
        sink.log_eval(evaluation)
        sink.close(TrialState.COMPLETED, {"val_loss": 2.0, "max_vio": 0.4, "dead_tenth": 0.0})
    metrics = run_of(client, sink).data.metrics
    assert metrics["val_bits_per_byte"] == 2.9
    assert metrics["max_vio_global"] == pytest.approx(0.25)  # layers at 1.5 and 1.0 of fair
    assert (metrics["final/max_vio"], metrics["final/dead_tenth"]) == (0.4, 0.0)
    for key in ("val_loss", "final/max_vio", "max_vio_global"):
        assert logged_steps(client, sink, key) == [100]


def test_nan_is_a_point_and_inf_is_a_tag(
    client: MlflowClient, started: MlflowSink, record: Record
) -> None:
    started.log_steps([record(10, loss=math.nan, grad_norm=math.inf)])
    run = run_of(client, started)
    assert math.isnan(run.data.metrics["loss"])
    assert "grad_norm" not in run.data.metrics
    assert run.data.tags["infinite.grad_norm"] == "inf at step 10"


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


def _prepare_home(home: Path) -> None:
    prepare(Settings(home=home))


def test_artifacts_go_below_the_home(settings: Settings) -> None:
    prepare(settings)
    client = MlflowClient(tracking_uri=settings.mlflow_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert experiment.artifact_location == (settings.root / "artifacts").as_uri()


def test_sweep_has_one_parent_that_ends_with_it(settings: Settings, client: MlflowClient) -> None:
    sweep = _sweep(SweepState.ACTIVE)
    run_id = ensure_parent(settings, sweep)
    assert ensure_parent(settings, sweep) == run_id
    settle(settings, sweep, [])
    assert client.get_run(run_id).info.status == "RUNNING"
    settle(settings, _sweep(SweepState.FINISHED), [])
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.tags["sweep"] == "demo-1a2b3c"


def test_runs_that_no_worker_could_end_get_the_status_of_the_store(
    settings: Settings, client: MlflowClient, identity: Identity
) -> None:
    states = {
        "a" * 16: TrialState.CANCELLED,
        "b" * 16: TrialState.FAILED,
        "c" * 16: TrialState.QUEUED,
    }
    run_ids = {digest: start(settings, identity(digest)).run_id for digest in states}
    trials = [_trial(digest, state, run_ids[digest]) for digest, state in states.items()]
    settle(settings, _sweep(SweepState.CANCELLED), [*trials, _trial("d" * 16, TrialState.FAILED)])
    found = [client.get_run(str(run_id)).info.status for run_id in run_ids.values()]
    assert found == ["KILLED", "FAILED", "RUNNING"]


def test_runs_that_a_user_removed_are_not_ended(
    settings: Settings, client: MlflowClient, identity: Identity
) -> None:
    removed = str(start(settings, identity("a" * 16)).run_id)
    client.delete_run(removed)
    trials = [
        _trial("a" * 16, TrialState.CANCELLED, removed),
        _trial("b" * 16, TrialState.CANCELLED, "0" * 32),
    ]
    settle(settings, _sweep(SweepState.CANCELLED), trials)
    assert client.get_run(removed).info.status == "RUNNING"


def _trial(digest: str, state: TrialState, run_id: str | None = None) -> TrialRecord:
    blank = {field.name: None for field in dataclasses.fields(TrialRecord)}
    return TrialRecord(**(blank | {"digest": digest, "state": state, "run_id": run_id}))


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


def test_removed_runs_are_gone_and_removing_them_again_is_no_error(
    settings: Settings, client: MlflowClient, started: MlflowSink
) -> None:
    assert started.run_id is not None
    for _ in range(2):
        remove_runs(settings, [started.run_id, "0" * 32])
    assert trial_runs(client) == []
