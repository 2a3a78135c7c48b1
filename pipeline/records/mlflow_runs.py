"""Makes the runs in MLflow equal to what the store and the shards say: few scalars, spec, shards.

Shards and store are the record, and MLflow is a projection of them. So every call may be repeated,
by this process or by another: a point has the same value and the same time each time, by which
MLflow recognises it. A step becomes a point when no attempt can train it again. Steps up to the
newest checkpoint are such, and all steps of a trial that waits for its evaluation or is final.
Every call names its run, because MLflow's active run belongs to a thread and mixes up parents and
children.
"""

import evenload.pipeline.records.mlflow_environment  # noqa: F401 - before mlflow

# isort: split
import fcntl
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from mlflow import entities
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import ValidationError

from evenload.pipeline.figures.loads import History
from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.records import evaluation_arrays, provenance
from evenload.pipeline.records.run import Biases, StepRecord
from evenload.pipeline.records.run_labels import MAX_VALUE, params
from evenload.pipeline.records.scalars import logged_scalars
from evenload.pipeline.records.shards import iter_history, newest_checkpoint, parts
from evenload.pipeline.redaction import without_secrets_of
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import SweepRecord, SweepState, TrialRecord, TrialState

EXPERIMENT = "evenload"
FINAL = "final/"  # prefix of final figures; the plain name is that of a curve over steps
RUNNING = "RUNNING"
RUN_STATUS = {
    TrialState.COMPLETED: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.STOPPED: "KILLED",
    TrialState.CANCELLED: "KILLED",
}
HAS_TRAINED = (TrialState.TRAINED, TrialState.EVALUATING)
PARENT_STATUS = {SweepState.FINISHED: "FINISHED", SweepState.CANCELLED: "KILLED"}
OUTAGES = {
    "INTERNAL_ERROR",  # also means connection refused and timeout
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
}
FAILURES = (MlflowException, OSError)
STEPS_OF_A_BATCH = 30  # a step has about 25 figures, and MLflow takes 1000 in one call


@dataclass
class _TrialRun:
    """What MLflow has of a trial, and how far its shards were read."""

    run_id: str
    status: str
    start_ms: int
    figures: frozenset[str]  # names of all metrics
    params: frozenset[str]
    has_dataset: bool
    is_removed: bool  # by a user
    logged_step: int  # the newest step with a point
    attempts: int = 0  # whose provenance is in the tags
    read_step: int = 0
    seconds: float = 0.0  # of training up to read_step
    bias_LE: Biases | None = field(default=None, repr=False)  # of read_step

    @property
    def now_ms(self) -> int:
        return self.start_ms + round(1000 * self.seconds)


class MlflowRuns:
    """The runs of one home.

    If a call raises, repeat it later. What MLflow has is then looked up anew.

    Raises:   MlflowException, OSError: see `is_outage`
    """

    def __init__(self, settings: Settings) -> None:
        prepare(settings)
        self._settings = settings
        self._client = MlflowClient(tracking_uri=settings.mlflow_uri)
        self._experiment_id = _experiment_id(self._client, settings)
        self._trials: dict[str, _TrialRun] = {}  # run id -> what is known of it
        self.unended = set(self._running())  # ids of runs that MLflow takes for running

    def put_sweep(self, sweep: SweepRecord, adopt: Callable[[str], str]) -> str:
        """Creates the sweep's run, the parent of its trials' runs, or gives it the sweep's state.

        Args:     adopt: stores the id of a new run; returns that which is stored then
        """
        run_id, status = sweep.parent_run_id, PARENT_STATUS.get(sweep.state, RUNNING)
        if run_id is None:
            tags = {"kind": "sweep", "sweep": sweep.sweep_id}
            run_id = self._create(sweep.sweep_id, tags, _ms(sweep.created_at), adopt)
            self._client.log_dict(run_id, sweep.spec, "sweep.json")
        if (status == RUNNING) != (run_id in self.unended):
            self._set_status(run_id, status, _ms(sweep.finished_at))
        return run_id

    def put_trial(
        self,
        trial: TrialRecord,
        sweep: SweepRecord | None,
        folder: Path,
        adopt: Callable[[str], str],
    ) -> None:
        """Adds to the trial's run what it lacks, and ends it if the trial is final.

        Args:     sweep: the first that lists it, with the id of its own run.  folder: of its shards
        """
        run = self._trials.pop(trial.run_id or "", None) or self._found(trial)
        if run is None:
            run_id = self._create(_name(trial), _tags(trial, sweep), _ms(trial.started_at), adopt)
            run = _known(self._client.get_run(run_id), trial)
        if not run.is_removed:
            self._add(run, trial, folder)
        if run.status == RUNNING:  # and nothing was raised: then it is known what has arrived
            self._trials[run.run_id] = run

    def _add(self, run: _TrialRun, trial: TrialRecord, folder: Path) -> None:
        self._describe(run, trial, folder)
        status = RUN_STATUS.get(trial.state, RUNNING)
        if status == RUNNING and run.status != RUNNING:
            self._set_status(run.run_id, status)
            run.status = status
        try:
            spec = TrialSpec.model_validate(trial.spec)
        except ValidationError:  # of another version: its shards cannot be read
            spec = None
        if spec is not None:
            points = _points(run, spec, folder, self._last_certain(trial, folder))
            while batch := list(islice(points, STEPS_OF_A_BATCH)):
                self._put_metrics(run, batch)
        if status != RUNNING and run.status != status:
            self._end(run, trial, folder)
            self._set_status(run.run_id, status, _ms(trial.finished_at))
            run.status = status

    def _describe(self, run: _TrialRun, trial: TrialRecord, folder: Path) -> None:
        """Writes missing params, which never change, and tags of a new attempt."""
        flat = params(trial.spec)
        missing = [
            entities.Param(key, value) for key, value in flat.items() if key not in run.params
        ]
        facts = provenance.read(folder)
        if missing or len(facts) > run.attempts:
            tags = {"attempt": str(trial.attempt), **(facts[-1] if facts else {})}
            self._client.log_batch(run.run_id, params=missing, tags=_run_tags(tags))
            run.params, run.attempts = run.params | flat.keys(), len(facts)
        if facts and "corpus" in facts[-1] and not run.has_dataset:
            # PostgreSQL refuses one of two homes that insert the same dataset at once; the next
            # look finds it.
            self._client.log_inputs(run.run_id, [_dataset(trial, facts[-1]["corpus"])])
            run.has_dataset = True

    def _last_certain(self, trial: TrialRecord, folder: Path) -> int:
        """The last step that no attempt can train again."""
        is_trained = trial.state.is_final or trial.state in HAS_TRAINED
        if is_trained or self._settings.mirror_url is not None:  # which has nothing that is newer
            return int(trial.spec["train"]["steps"])
        return newest_checkpoint(folder)

    def _put_metrics(
        self, run: _TrialRun, points: Iterable[tuple[int, int, Mapping[str, float]]]
    ) -> None:
        metrics, infinite = [], {}
        for step, time_ms, figures in points:
            for key, value in figures.items():
                # MLflow stores inf as 1.8e308, which would distort every mean and axis.
                if math.isinf(value):
                    infinite[f"infinite.{key}"] = f"{value} at step {step}"
                else:
                    metrics.append(entities.Metric(key, value, time_ms, step))
        self._client.log_batch(run.run_id, metrics=metrics, tags=_run_tags(infinite))

    def _end(self, run: _TrialRun, trial: TrialRecord, folder: Path) -> None:
        """Writes the result, of which MLflow keeps one history per name, and uploads all files."""
        figures = {
            key if _is_of_evaluation(key) else FINAL + key: float(value)
            for key, value in trial.result.items()
        }
        new = {key: value for key, value in figures.items() if key not in run.figures}
        self._put_metrics(run, [(int(trial.spec["train"]["steps"]), run.now_ms, new)])
        run.figures |= new.keys()
        tags = {"tracking_errors": f"{trial.figure('tracking_errors'):.0f}"}
        if trial.checkpoint_uri:
            tags["checkpoint"] = trial.checkpoint_uri
        if trial.error:
            tags["error"] = trial.error.strip().splitlines()[-1][:MAX_VALUE]
            self._client.log_text(run.run_id, trial.error, "error.txt")
        self._client.log_batch(run.run_id, tags=_run_tags(tags))
        self._client.log_dict(run.run_id, trial.spec, "spec.json")
        self._upload(run.run_id, folder)

    def _upload(self, run_id: str, folder: Path) -> None:
        """Uploads the shards that MLflow lacks."""
        there = {
            file.path: file.file_size
            for name in ("expert_load", "steps", evaluation_arrays.FOLDER)
            for file in self._client.list_artifacts(run_id, name)
        }
        for path in _shards(folder):
            if there.get(f"{path.parent.name}/{path.name}") != path.stat().st_size:
                self._client.log_artifact(run_id, str(path), path.parent.name)

    def _create(
        self, name: str, tags: dict[str, str], start_ms: int | None, adopt: Callable[[str], str]
    ) -> str:
        """The id of a new run, or of that which another process created at the same time."""
        made = self._client.create_run(self._experiment_id, start_ms, tags, name).info.run_id
        kept = adopt(made)
        if kept != made:
            self._client.delete_run(made)
        self.unended.add(kept)
        return kept

    def _found(self, trial: TrialRecord) -> _TrialRun | None:
        """The trial's run; None if it has none, or MLflow has lost it."""
        if trial.run_id is None:
            return None
        try:
            return _known(self._client.get_run(trial.run_id), trial)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        return None

    def _set_status(self, run_id: str, status: str, end_ms: int | None = None) -> None:
        """Sets the status, unless a user has removed the run."""
        try:
            if status == RUNNING:
                self._client.update_run(run_id, status)
            else:
                self._client.set_terminated(run_id, status, end_ms)
        except MlflowException as error:
            if is_outage(error):
                raise
        if status == RUNNING:
            self.unended.add(run_id)
        else:
            self.unended.discard(run_id)

    def _running(self) -> Iterator[str]:
        token: str | None = ""
        while token is not None:
            page = self._client.search_runs(
                [self._experiment_id], f"attributes.status = '{RUNNING}'", page_token=token or None
            )
            yield from (run.info.run_id for run in page)
            token = page.token or None


def _known(run: entities.Run, trial: TrialRecord) -> _TrialRun:
    tokens = run.data.metrics.get("tokens", 0.0)  # of the newest point
    return _TrialRun(
        run_id=run.info.run_id,
        status=run.info.status,
        start_ms=run.info.start_time,
        figures=frozenset(run.data.metrics),
        params=frozenset(run.data.params),
        has_dataset=bool(run.inputs and run.inputs.dataset_inputs),
        is_removed=run.info.lifecycle_stage != entities.LifecycleStage.ACTIVE,
        logged_step=round(trial.spec["train"]["steps"] * tokens / trial.planned_tokens),
    )


def _points(
    run: _TrialRun, spec: TrialSpec, folder: Path, last: int
) -> Iterator[tuple[int, int, Mapping[str, float]]]:
    """Step, time and figures of the steps up to `last` that are due and not logged."""
    if run.read_step == 0 and run.logged_step > 1:
        for chunk in iter_history(folder, last=run.logged_step - 1, columns=()):
            run.seconds += float(chunk.scalars["seconds"].sum())
        run.read_step = run.logged_step - 1
    if run.read_step >= last:
        return
    for chunk in iter_history(folder, first=run.read_step + 1, last=last):
        for record in _records(chunk):
            run.seconds += record.seconds
            is_last = record.step == spec.train.steps
            is_due = is_last or record.step % spec.runtime.log_every == 0
            if is_due and record.step > run.logged_step:
                yield record.step, run.now_ms, logged_scalars(record, run.bias_LE, spec)
                run.logged_step = record.step
            run.read_step, run.bias_LE = record.step, record.bias_LE


def prepare(settings: Settings) -> None:
    """Migrates MLflow's database and creates the experiment. Idempotent, safe in many processes.

    All processes that find an empty database migrate it, so one does at a time. MLflow cannot take
    up a migration that was killed, so the database of a home has another name until it is whole.

    Raises:   MlflowException, OSError: MLflow does not answer, or its database is damaged
    """
    path = settings.root / "mlflow.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        uri, database = settings.mlflow_uri, settings.root / "mlflow.db"
        try:
            if settings.tracking_uri is None and not database.exists():
                unfinished = database.with_name("mlflow.db.new")
                unfinished.unlink(missing_ok=True)
                _experiment_id(MlflowClient(tracking_uri=f"{uri}.new"), settings)
                unfinished.replace(database)
            _experiment_id(MlflowClient(tracking_uri=uri), settings)
        except FAILURES:
            raise
        except Exception as error:  # of SQLAlchemy or alembic, which MlflowClient passes on
            reason = without_secrets_of(uri, error).partition("\n")[0]
            raise OSError(
                f"MLflow's database cannot be used: {reason}; "
                "without it, evenload makes the runs anew from the shards"
            ) from error


def probe(settings: Settings) -> str | None:
    """The error that keeps MLflow from answering; None if it answers.

    A missing SQLite file counts as an answer, because MLflow creates it. `probe` does not.
    """
    file = settings.mlflow_uri.removeprefix("sqlite:///")
    if file != settings.mlflow_uri and not Path(unquote(file)).exists():
        return None
    try:
        MlflowClient(tracking_uri=settings.mlflow_uri).search_experiments(max_results=1)
    except FAILURES as error:
        return without_secrets_of(settings.mlflow_uri, error).splitlines()[0]
    return None


def remove_runs(settings: Settings, run_ids: Iterable[str]) -> None:
    """Deletes these runs. Idempotent. They can be restored until `mlflow gc` is run.

    Raises:   MlflowException, OSError: MLflow does not answer
    """
    client = MlflowClient(tracking_uri=settings.mlflow_uri)
    for run_id in run_ids:
        try:
            if client.get_run(run_id).info.lifecycle_stage == entities.LifecycleStage.ACTIVE:
                client.delete_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


def is_outage(error: Exception) -> bool:
    """Whether MLflow did not answer, in contrast to a refusal."""
    return not isinstance(error, MlflowException) or error.error_code in OUTAGES


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


def _name(trial: TrialRecord) -> str:
    model, seed = trial.spec["model"], trial.spec["train"]["seed"]
    return f"{trial.label}, {model['num_experts']} experts, seed {seed}"


def _tags(trial: TrialRecord, sweep: SweepRecord | None) -> dict[str, str]:
    """The tags that a run never changes."""
    tags = {"kind": "trial", "digest": trial.digest, "rule": trial.label}
    if sweep is not None:
        tags["sweep"] = sweep.sweep_id
        if sweep.parent_run_id:
            tags["mlflow.parentRunId"] = sweep.parent_run_id
    return tags


def _run_tags(tags: Mapping[str, str]) -> list[entities.RunTag]:
    return [entities.RunTag(key, value) for key, value in tags.items()]


def _dataset(trial: TrialRecord, corpus_digest: str) -> entities.DatasetInput:
    kind, source = trial.spec["data"]["kind"], json.dumps(trial.spec["data"])
    dataset = entities.Dataset(kind, corpus_digest[:36], kind, source)
    return entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", "training")])


def _ms(time: datetime | None) -> int | None:
    return None if time is None else round(1000 * time.timestamp())


def _shards(folder: Path) -> Iterator[Path]:
    for name in ("expert_load", "steps"):
        yield from (part.path for part in parts(folder / name))
    yield from (folder / "expert_load").glob("eval-*.parquet")
    yield from (folder / "expert_load").glob("manifest.json")
    yield from evaluation_arrays.paths(folder)


def _records(chunk: History) -> Iterator[StepRecord]:
    scalars = chunk.scalars
    for row, step in enumerate(chunk.step_S):
        yield StepRecord(
            step=int(step),
            loss=float(scalars["loss"][row]),
            balance_loss=float(scalars["balance_loss"][row]),
            grad_norm=float(scalars["grad_norm"][row]),
            learning_rate=float(scalars["learning_rate"][row]),
            tokens=int(scalars["tokens"][row]),
            seconds=float(scalars["seconds"][row]),
            count_LE=chunk.count_SLE[row],
            bias_LE=chunk.bias_SLE[row],
            max_vio_micro=float(scalars["max_vio_micro"][row]),
        )


def _is_of_evaluation(name: str) -> bool:
    return name in METRICS and "evaluation" in METRICS[name].of
