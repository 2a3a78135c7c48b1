"""Figures of a recorded run in the MLflow run that its own training has opened.

MLflow is that of the training: its environment and its tracking server are not ours to choose.
"""

import math
import time
from collections.abc import Sequence

import mlflow
from mlflow.entities import Metric

from evenload.pipeline.figures.loads import Loads
from evenload.pipeline.records.recorded_runs import RecordedRun
from evenload.pipeline.records.run import Biases, StepRecord
from evenload.pipeline.records.scalars import step_scalars

LOG_EVERY = 10  # steps between two records
UNKNOWN = ("tokens", "count_check")  # tokens are known from the counts alone


class ActiveRun:
    """The run that is active in the training's thread, once `find` has seen it."""

    def __init__(self) -> None:
        self._run_id: str | None = None
        self._bias: dict[str, Biases] = {}  # of the previous step, by recorded run

    def find(self) -> None:
        """To be called in the training's thread; MLflow's active run is that of a thread."""
        if self._run_id is None and (run := mlflow.active_run()) is not None:
            self._run_id = run.info.run_id

    def log(self, items: Sequence[tuple[str, RecordedRun, StepRecord]]) -> None:
        """Logs at most 25 figures of the first and of every tenth step.

        Args:     items: what metrics' names begin with, the run, a step of it
        Raises:   RuntimeError: no run is active.  MlflowException: the server does not answer
        """
        metrics: list[Metric] = []
        for prefix, run, record in items:
            before_LE = self._bias.get(run.run_id)
            self._bias[run.run_id] = record.bias_LE
            if record.step == 1 or record.step % LOG_EVERY == 0:
                metrics += _metrics(record, before_LE, run, prefix)
        if not metrics:
            return
        if self._run_id is None:
            raise RuntimeError("mlflow=True: no MLflow run is active; call mlflow.start_run()")
        mlflow.MlflowClient().log_batch(self._run_id, metrics=metrics[-1000:])


def _metrics(
    record: StepRecord, before_LE: Biases | None, run: RecordedRun, prefix: str
) -> list[Metric]:
    tokens = round(record.count_LE.sum(axis=-1).max() / run.shape.top_k)
    loads = Loads(record.count_LE[None], tokens, run.shape.top_k, run.outline.target_E)
    now = round(time.time() * 1000)
    return [
        Metric(f"{prefix}/{name}", value, now, record.step)
        for name, value in step_scalars(record, before_LE, loads).items()
        if math.isfinite(value) and name not in UNKNOWN
    ]
