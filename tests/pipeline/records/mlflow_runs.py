"""Starts an MLflow sink, and reads its run back from MLflow."""

from __future__ import annotations

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from evenload.pipeline.records.mlflow_sink import EXPERIMENT, MlflowSink
from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.settings import Settings


def start(settings: Settings, run: RunIdentity) -> MlflowSink:
    sink = MlflowSink(settings, patience_seconds=5.0)
    sink.start(run)
    return sink


def logged_steps(client: MlflowClient, sink: MlflowSink, key: str = "loss") -> list[int]:
    assert sink.run_id
    return [metric.step for metric in client.get_metric_history(sink.run_id, key)]


def run_of(client: MlflowClient, sink: MlflowSink) -> Run:
    assert sink.run_id
    return client.get_run(sink.run_id)


def trial_runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], "tags.kind = 'trial'"))
