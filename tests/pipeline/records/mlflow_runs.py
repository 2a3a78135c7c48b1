"""Projects a trial into MLflow, and reads its run back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from evenload.pipeline.records.mlflow_runs import EXPERIMENT, MlflowRuns
from evenload.pipeline.records.run import RunIdentity, StepRecord
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState
from tests.pipeline.sweep.trial_records import completed_trial

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Projected:
    """A trial with its shards and its run, both of which grow as the test says."""

    def __init__(self, settings: Settings, run: RunIdentity, **fields: Any) -> None:
        self.settings = settings
        self.folder = settings.trial_dir(run.digest)
        self.trial = completed_trial(
            run.digest, "sign 0.01", run.spec, 0.0, 0.0, state=TrialState.TRAINING, **fields
        )
        self.sink = LoadLogSink(self.folder)
        self.sink.start(run)
        self.runs: MlflowRuns | None = None

    @property
    def run_id(self) -> str:
        assert self.trial.run_id
        return self.trial.run_id

    def record(self, records: Sequence[StepRecord], checkpoint: int | None = None) -> None:
        """Logs steps, and writes a checkpoint after that step."""
        self.sink.log_steps(records)
        if checkpoint is not None:
            self.sink.checkpoint()
            path = self.folder / "checkpoints" / f"step-{checkpoint:08}.pt"
            path.parent.mkdir(exist_ok=True)
            path.touch()

    def project(self, state: TrialState | None = None, afresh: bool = False, **fields: Any) -> None:
        """Args: afresh: as another process would"""
        self.trial = replace(self.trial, **({"state": state} if state else {}), **fields)
        if self.runs is None or afresh:
            self.runs = MlflowRuns(self.settings)
        self.runs.put_trial(self.trial, None, self.folder, self._adopt)

    def _adopt(self, run_id: str) -> str:
        self.trial = replace(self.trial, run_id=run_id)
        return run_id


def logged_steps(client: MlflowClient, run_id: str, key: str = "loss") -> list[int]:
    return [metric.step for metric in client.get_metric_history(run_id, key)]


def trial_runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], "tags.kind = 'trial'"))
