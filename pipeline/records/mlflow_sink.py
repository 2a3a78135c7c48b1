"""Writes a trial's run in MLflow: few scalars, the spec, and the shards as artifacts.

Every call names its run, because MLflow's active run belongs to a thread and mixes up parents and
children. A trial has one run for all its attempts, which find it by the trial's digest.
"""

from __future__ import annotations

import evenload.pipeline.records.mlflow_environment  # noqa: F401 - before mlflow

# isort: split
import fcntl
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from evenload.pipeline.errors import TrackingUnavailable
from evenload.pipeline.figures.loads import History
from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.records import evaluation_arrays
from evenload.pipeline.records.outbox import Outbox
from evenload.pipeline.records.run import Biases, EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.records.run_labels import MAX_VALUE, attempt_tags, identity_tags, params
from evenload.pipeline.records.scalars import evaluation_figures, logged_scalars
from evenload.pipeline.records.shards import iter_history, parts
from evenload.pipeline.redaction import without_secrets_of
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import SweepRecord, SweepState, TrialRecord, TrialState

Result = TypeVar("Result")

EXPERIMENT = "evenload"
FINAL = "final/"  # prefix of final figures; the plain name is that of a curve over steps
RUN_STATUS = {
    TrialState.COMPLETED: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.STOPPED: "KILLED",
    TrialState.CANCELLED: "KILLED",
}
PARENT_STATUS = {SweepState.FINISHED: "FINISHED", SweepState.CANCELLED: "KILLED"}
OUTAGES = {
    "INTERNAL_ERROR",  # also means connection refused and timeout
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
}
FAILURES = (MlflowException, OSError)
STEPS_OF_A_BATCH = 30  # a step has about 25 figures, and MLflow takes 1000 in one call


class MlflowSink:
    """Writes one trial's run.

    Each pair of key and step is written once. Steps that MLflow has are skipped, and steps that an
    earlier attempt could not deliver are read from the shards. A repeated delivery has the
    timestamp of the first, by which MLflow recognises it. The run ends when its trial does.
    """

    def __init__(self, settings: Settings, patience_seconds: float = 30.0) -> None:
        self._run_id = ""
        self._settings = settings
        self._patience_seconds = patience_seconds
        self._last_step = 0  # the newest step that is logged or queued
        self._remote_size: dict[str, int | None] = {}  # size in bytes of each artifact in MLflow
        self._outbox = Outbox(FAILURES, is_outage)

    @property
    def run_id(self) -> str | None:
        """The id of the run; None until `start`."""
        return self._run_id or None

    @property
    def errors(self) -> int:
        return self._outbox.errors

    def start(self, run: RunIdentity) -> None:
        """Finds or creates the run, and logs the steps that it lacks.

        Raises:   TrackingUnavailable: no answer within `patience_seconds`
                  MlflowException: MLflow refused a call
        """
        self._run = run
        self._spec = TrialSpec.model_validate(run.spec)
        self._trial_dir = self._settings.trial_dir(run.digest)
        self._bias_LE: Biases | None = None
        _patiently(self._open_run, self._patience_seconds)
        self._log_what_is_missing()

    def log_steps(self, records: Sequence[StepRecord]) -> None:
        due: list[tuple[int, Mapping[str, float]]] = []
        for record in records:
            last = record.step == self._spec.train.steps
            logs = last or record.step % self._spec.runtime.log_every == 0
            if logs and record.step > self._last_step:
                due.append((record.step, logged_scalars(record, self._bias_LE, self._spec)))
                self._last_step = record.step
            self._bias_LE = record.bias_LE
        for start in range(0, len(due), STEPS_OF_A_BATCH):
            self._put_metrics(*due[start : start + STEPS_OF_A_BATCH])
        self._outbox.flush()

    def log_eval(self, record: EvalRecord) -> None:
        self._put_once(evaluation_figures(record, self._spec), record.step)
        self._outbox.flush()

    def checkpoint(self, step: int, uri: str) -> None:
        self._put_tags({"checkpoint": uri})
        self._outbox.put(partial(self._upload, last=step))
        self._outbox.flush()

    def close(self, state: TrialState, result: dict[str, Any], error: str | None = None) -> None:
        self._put_result(result)
        if error:
            self._put_tags({"error": error.strip().splitlines()[-1][:MAX_VALUE]})
            self._outbox.put(partial(self._client.log_text, self._run_id, error, "error.txt"))
        self._outbox.put(self._upload)
        self._outbox.put(self._tag_errors)
        if state in RUN_STATUS:
            status = RUN_STATUS[state]
            self._outbox.put(partial(self._client.set_terminated, self._run_id, status))
        self._outbox.drain(self._patience_seconds)

    def _open_run(self) -> None:
        self._client = MlflowClient(tracking_uri=self._settings.mlflow_uri)
        experiment_id = _experiment_id(self._client, self._settings)
        found = _find_run(self._client, experiment_id, kind="trial", digest=self._run.digest)
        run = found or self._client.create_run(
            experiment_id, tags=identity_tags(self._run, self._spec), run_name=self._run.name
        )
        self._run_id = run.info.run_id
        self._describe(run)
        self._logged_once = set(run.data.metrics)
        if found is not None:
            self._look_up_what_is_there()

    def _look_up_what_is_there(self) -> None:
        history = self._client.get_metric_history(self._run_id, "loss")
        self._last_step = max((metric.step for metric in history), default=0)
        self._remote_size = {
            file.path: file.file_size
            for folder in ("expert_load", "steps", evaluation_arrays.FOLDER)
            for file in self._client.list_artifacts(self._run_id, folder)
        }

    def _describe(self, run: Run) -> None:
        """Writes missing params, which never change, and tags, which may change."""
        flat = params(self._run.spec)
        missing = [Param(key, value) for key, value in flat.items() if key not in run.data.params]
        self._client.log_batch(self._run_id, params=missing, tags=_tags(attempt_tags(self._run)))
        corpus_digest = self._run.tags.get("corpus")
        if corpus_digest and not (run.inputs and run.inputs.dataset_inputs):
            self._log_dataset(_dataset(self._spec, corpus_digest))
        self._client.log_dict(self._run_id, self._run.spec, "spec.json")
        if run.info.status != "RUNNING":
            self._client.update_run(self._run_id, status="RUNNING")

    def _log_dataset(self, dataset: DatasetInput) -> None:
        try:
            self._client.log_inputs(self._run_id, [dataset])
        except MlflowException as error:
            if is_outage(error):
                raise
            # If runs begin at once, each inserts the dataset that they share, and PostgreSQL
            # refuses all but one. A second call finds the dataset.
            self._client.log_inputs(self._run_id, [dataset])

    def _log_what_is_missing(self) -> None:
        """Logs, from the shards, steps that an outage or a kill has kept from MLflow."""
        last = self._run.resumed_from_step or None
        for chunk in iter_history(self._trial_dir, first=self._last_step + 1, last=last):
            self.log_steps(_records(chunk))

    def _put_metrics(self, *figures_of: tuple[int, Mapping[str, float]]) -> None:
        """Queues the figures of steps as one call, which costs SQLite hardly more than one step."""
        now = int(time.time() * 1000)
        metrics, infinite = [], {}
        for step, figures in figures_of:
            for key, value in figures.items():
                # MLflow stores inf as 1.8e308, which would distort every mean and axis.
                if math.isinf(value):
                    infinite[f"infinite.{key}"] = f"{value} at step {step}"
                else:
                    metrics.append(Metric(key, value, now, step))
        self._outbox.put(
            partial(self._client.log_batch, self._run_id, metrics=metrics, tags=_tags(infinite))
        )

    def _put_once(self, figures: Mapping[str, float], step: int) -> None:
        new = {key: value for key, value in figures.items() if key not in self._logged_once}
        self._logged_once |= new.keys()
        if new:
            self._put_metrics((step, new))

    def _put_result(self, result: Mapping[str, Any]) -> None:
        """A name that a curve of steps has too is marked: MLflow keeps one history per name."""
        figures = {
            key if _is_of_evaluation(key) else FINAL + key: float(value)
            for key, value in result.items()
        }
        self._put_once(figures, self._spec.train.steps)

    def _put_tags(self, tags: Mapping[str, str]) -> None:
        self._outbox.put(partial(self._client.log_batch, self._run_id, tags=_tags(tags)))

    def _tag_errors(self) -> None:
        self._client.set_tag(self._run_id, "tracking_errors", str(self.errors))

    def _upload(self, last: int | None = None) -> None:
        """Uploads the shards that MLflow lacks, only those up to step `last` if that is given."""
        for path in _shards(self._trial_dir, last):
            artifact = f"{path.parent.name}/{path.name}"
            size = path.stat().st_size
            if self._remote_size.get(artifact) != size:
                self._client.log_artifact(self._run_id, str(path), path.parent.name)
                self._remote_size[artifact] = size


def prepare(settings: Settings) -> None:
    """Migrates MLflow's database and creates the experiment. Idempotent, safe in many processes.

    Call it before workers start, because all processes that find an empty database migrate it.
    """
    with _only_one(settings.root / "mlflow.lock"):
        _experiment_id(MlflowClient(tracking_uri=settings.mlflow_uri), settings)


def probe(settings: Settings) -> str | None:
    """The error that keeps MLflow from answering; None if it answers.

    A missing SQLite file counts as an answer, because MLflow creates it. `probe` does not.
    """
    file = settings.mlflow_uri.removeprefix("sqlite:///")
    if file != settings.mlflow_uri and not Path(file).exists():
        return None
    try:
        MlflowClient(tracking_uri=settings.mlflow_uri).search_experiments(max_results=1)
    except FAILURES as error:
        return without_secrets_of(settings.mlflow_uri, error).splitlines()[0]
    return None


def ensure_parent(settings: Settings, sweep: SweepRecord) -> str:
    """The id of the sweep's run, which is the parent of its trials' runs. Creates it if needed."""
    client = MlflowClient(tracking_uri=settings.mlflow_uri)
    experiment_id = _experiment_id(client, settings)
    found = _find_run(client, experiment_id, kind="sweep", sweep=sweep.sweep_id)
    if found is None:
        tags = {"kind": "sweep", "sweep": sweep.sweep_id}
        found = client.create_run(experiment_id, tags=tags, run_name=sweep.sweep_id)
        client.log_dict(found.info.run_id, sweep.spec, "sweep.json")
    return found.info.run_id


def settle(settings: Settings, sweep: SweepRecord, trials: Sequence[TrialRecord]) -> None:
    """Gives the runs of a sweep and of its trials the final status that the store has for them.

    A worker ends the run of its trial. This call ends the others: trials that were cancelled while
    they waited, given up after lost workers, or finished during an outage.
    """
    client = MlflowClient(tracking_uri=settings.mlflow_uri)
    parent_id = sweep.parent_run_id or ensure_parent(settings, sweep)
    statuses = {trial.run_id: RUN_STATUS.get(trial.state) for trial in trials if trial.run_id}
    for run_id, status in (statuses | {parent_id: PARENT_STATUS.get(sweep.state)}).items():
        if status:
            _end_run(client, run_id, status)


def _end_run(client: MlflowClient, run_id: str, status: str) -> None:
    """Ends the run, unless a user has removed it."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return
        raise
    if run.info.lifecycle_stage == LifecycleStage.ACTIVE and run.info.status != status:
        client.set_terminated(run_id, status)


def _experiment_id(client: MlflowClient, settings: Settings) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    try:
        return client.create_experiment(EXPERIMENT, artifact_location=settings.mlflow_artifacts)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return _experiment_id(client, settings)


def _find_run(client: MlflowClient, experiment_id: str, **tags: str) -> Run | None:
    query = " and ".join(f"tags.{key} = '{value}'" for key, value in tags.items())
    runs = client.search_runs([experiment_id], query, max_results=1, order_by=["start_time ASC"])
    return runs[0] if runs else None


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in tags.items()]


def _dataset(spec: TrialSpec, corpus_digest: str) -> DatasetInput:
    source = json.dumps(spec.data.model_dump(mode="json"))
    dataset = Dataset(spec.data.kind, corpus_digest[:36], spec.data.kind, source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _shards(trial_dir: Path, last: int | None) -> Iterator[Path]:
    for folder in ("expert_load", "steps"):
        for part in parts(trial_dir / folder):
            if last is None or part.last <= last:
                yield part.path
    yield from (trial_dir / "expert_load").glob("eval-*.parquet")
    yield from (trial_dir / "expert_load").glob("manifest.json")
    yield from evaluation_arrays.paths(trial_dir)


def _records(chunk: History) -> list[StepRecord]:
    return [
        StepRecord(
            step=int(step),
            loss=float(chunk.scalars["loss"][row]),
            balance_loss=float(chunk.scalars["balance_loss"][row]),
            grad_norm=float(chunk.scalars["grad_norm"][row]),
            learning_rate=float(chunk.scalars["learning_rate"][row]),
            tokens=int(chunk.scalars["tokens"][row]),
            seconds=float(chunk.scalars["seconds"][row]),
            count_LE=chunk.count_SLE[row],
            bias_LE=chunk.bias_SLE[row],
            max_vio_micro=float(chunk.scalars["max_vio_micro"][row]),
        )
        for row, step in enumerate(chunk.step_S)
    ]


def _is_of_evaluation(name: str) -> bool:
    return name in METRICS and "evaluation" in METRICS[name].of


def is_outage(error: Exception) -> bool:
    """Whether MLflow did not answer, in contrast to a refusal."""
    return not isinstance(error, MlflowException) or error.error_code in OUTAGES


def _patiently(call: Callable[[], Result], patience_seconds: float) -> Result:
    """Repeats a call during an outage, so that a restart of the server does not fail trials."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return call()
        except FAILURES as error:
            if not is_outage(error):
                raise
            if time.monotonic() >= deadline:
                raise TrackingUnavailable(f"MLflow does not answer: {error}") from error
            time.sleep(min(1.0, patience_seconds))


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """A lock that one process of this machine holds at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
