"""Deletes runs in MLflow."""

from __future__ import annotations

import evenload.pipeline.records.mlflow_environment  # noqa: F401 - before mlflow

# isort: split
from collections.abc import Iterable

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from evenload.pipeline.settings import Settings


def remove_runs(settings: Settings, run_ids: Iterable[str]) -> None:
    """Deletes these runs. Idempotent. They can be restored until `mlflow gc` is run.

    Raises:   MlflowException, OSError: MLflow does not answer
    """
    client = MlflowClient(tracking_uri=settings.mlflow_uri)
    for run_id in run_ids:
        try:
            if client.get_run(run_id).info.lifecycle_stage == "active":
                client.delete_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
