"""Runs one trial in this process with a progress bar, and stores it like a sweep."""

import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import typer
from rich.console import Console

from evenload.pipeline.figures.loads import max_vio
from evenload.pipeline.records.run import EvalRecord, RunIdentity, Sink, StepRecord
from evenload.pipeline.records.scores import write_recording
from evenload.pipeline.records.shards import LoadLogSink, newest_checkpoint
from evenload.pipeline.records.sinks import SinkGroup, default_sinks
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepLimits, SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, TrialRecord, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep import coordinator
from evenload.pipeline.sweep.coordinator import Coordinator
from evenload.pipeline.sweep.projection import projecting
from evenload.pipeline.sweep.worker_id import name_of
from evenload.workers.actors.device_memory import check_memory
from evenload.workers.actors.eval_actor import EvalActor
from evenload.workers.actors.this_process import ThisProcess, Worker
from evenload.workers.actors.train_actor import TrainActor
from evenload.workers.cli.progress import StepProgress
from evenload.workers.cli.session import initial_trials, log, open_store
from evenload.workers.cli.sweep_runner import check_goes_on, say_what_is_missing, stored_sweep
from evenload.workers.simulation.recording import ScoreRecorder
from evenload.workers.training.loop import train as run_training


def run_trial(
    asked: TrialSpec,
    name: str,
    settings: Settings,
    record_scores: Path | None,
    new_version: bool = False,
) -> str:
    """Trains the trial, scores it on held-out text and returns the id of its sweep.

    A coordinator runs it as in a sweep, so a signal, a lost worker or another process that has the
    trial is treated alike.

    Raises:   SpecError: the trial cannot run here
              typer.Exit(1): the trial was not ended; a message says why
    """
    spec = as_sweep(asked, name)
    with log.status("reading the corpus"):
        trials = initial_trials(spec, settings)
    check_memory(trials[0][1])
    store = open_store(settings, create=True)
    sweep_id = stored_sweep(store, settings, spec, trials, new_version)
    check_goes_on(store, settings, sweep_id)
    ((digest, trial),) = trials
    is_group = trial.runtime.workers > 1
    if is_group:  # with Ray, which one worker does not need
        from evenload.workers.actors.data_parallel import GroupActor, cluster_here
    recorder = ScoreRecorder(trial.model.top_k)
    console = Console(file=sys.stderr)  # while the worker's thread writes its output to its log
    with (
        projecting(store, settings) as projection,
        StepProgress(console, trial.train.steps) as progress,
    ):

        def sinks(settings: Settings, run: RunIdentity) -> Sink:
            return SinkGroup([default_sinks(settings, run), ProgressSink(progress)])

        def worker(kind: WorkKind, name: str) -> Worker:
            shared = settings.model_copy(update={"home": settings.root})
            if kind is WorkKind.EVAL:
                return EvalActor(name, shared, sinks)
            if is_group:  # the bar does not move until they end
                return GroupActor(name, shared, default_sinks, resources={})
            watch = recorder if record_scores else None
            return TrainActor(name, shared, sinks, watch=watch)

        executor = ThisProcess(worker)
        watcher = TrialWatcher(console, progress, executor.busy)
        with (
            cluster_here() if is_group else nullcontext(),
            messages_of(logging.getLogger(coordinator.__name__), console),
        ):
            is_over = Coordinator(store, executor, observer=watcher.show).run(sweep_id)
        projection.is_hurried = not is_over
    if not is_over:
        console.print(f"{_where(store, settings, digest)}; the same command goes on from there")
        raise typer.Exit(1)
    check_goes_on(store, settings, sweep_id)
    say_what_is_missing(projection)
    found = store.trial(digest)
    state, reason = found.state, found.stop_reason or "by its user"
    if state in (TrialState.STOPPED, TrialState.CANCELLED):
        remedy = f"`evenload sweep resume {sweep_id} --trial {digest}`"
        if reason.startswith("limits."):
            remedy = "raise the limit"
        goes_on = f"{remedy}, then the same command goes on"
        console.print(f"{digest} is {state}: {reason}; {goes_on}", soft_wrap=True)
        raise typer.Exit(1)
    if record_scores is not None and state is TrialState.COMPLETED:
        if recorder.num_steps < trial.train.steps:
            recorder = _record_again(settings, digest, trial)
        _write_scores(recorder, record_scores)
    return sweep_id


def _where(store: SweepStore, settings: Settings, digest: str) -> str:
    """Where a stopped trial stands."""
    trial = store.trial(digest)
    if trial.state.is_held:
        return f"{digest} is still held by {trial.worker}"
    step = newest_checkpoint(settings.trial_dir(digest))
    return f"stopped: {digest} is released with a checkpoint of step {step}"


class TrialWatcher:
    """Shows a trial that another process works on, and one that needs no more work.

    Args:     busy: the workers of this process
    """

    def __init__(
        self, console: Console, progress: StepProgress, busy: Callable[[], Mapping[str, str]]
    ) -> None:
        self._console = console
        self._progress = progress
        self._busy = busy
        self._told = ""

    def show(self, trials: Sequence[TrialRecord]) -> None:
        (trial,) = trials
        if trial.state is TrialState.COMPLETED:
            self._progress.show(trial.spec["train"]["steps"], "completed")
        holder = trial.worker if trial.state.is_held and trial.worker else ""
        if not holder or name_of(holder) in self._busy():
            return
        if holder != self._told:
            self._told = holder
            self._console.print(
                f"waiting: {trial.digest} is {trial.state} by {holder}. If that process has "
                "ended, the trial is taken over once its lease is over.",
                soft_wrap=True,
            )
        if trial.progress is not None:
            self._progress.show(trial.progress.step, "in another process")


@contextmanager
def messages_of(logger: logging.Logger, console: Console) -> Iterator[None]:
    """Shows the warnings of this logger on the console."""
    handler = logging.StreamHandler(console.file)
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _record_again(settings: Settings, digest: str, trial: TrialSpec) -> ScoreRecorder:
    """Trains a finished trial again in a temporary folder, to record its scores.

    The stored trial keeps its records and figures. On a CPU both trainings are equal bit for bit.
    """
    log.print(f"{digest} was trained before; training it once more, only to record its scores")
    recorder = ScoreRecorder(trial.model.top_k)
    run = RunIdentity(digest, "recording", None, 1, trial.model_dump(mode="json"))
    with (
        TemporaryDirectory(dir=settings.root, prefix="recording-") as folder,
        StepProgress(log, trial.train.steps) as progress,
    ):
        scratch = settings.model_copy(update={"home": Path(folder), "mirror_url": None})
        scratch.corpus_dir.symlink_to(settings.corpus_dir)
        sink = SinkGroup([LoadLogSink(scratch.trial_dir(digest)), ProgressSink(progress)])
        run_training(
            trial,
            settings=scratch,
            digest=digest,
            sink=sink,
            report=lambda _: Command.CONTINUE,
            run=run,
            watch=recorder,
        )
    return recorder


def _write_scores(recorder: ScoreRecorder, path: Path) -> None:
    recording = recorder.recording()
    write_recording(path, recording)
    steps, layers, tokens, _ = recording.score_NLTE.shape
    log.print(f"{path}: scores of {steps} steps, {layers} layers, {tokens} tokens per step")


def as_sweep(trial: TrialSpec, stem: str) -> SweepSpec:
    """A sweep with only this trial, named after its file."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", stem)
    return SweepSpec(
        name=f"train-{name}"[:64],
        base=trial.model_dump(mode="json", exclude={"limits"}),
        axes={"train.seed": [trial.train.seed]},
        limits=SweepLimits(trial_hours=trial.limits.hours),
    )


class ProgressSink:
    """Shows the recorded steps on the progress bar."""

    def __init__(self, progress: StepProgress) -> None:
        self._progress = progress
        self.errors = 0

    def start(self, run: RunIdentity) -> None:
        self._progress.show(run.resumed_from_step, "starting")

    def log_steps(self, records: Sequence[StepRecord]) -> None:
        last = records[-1]
        speed = last.tokens / last.step / last.seconds
        note = f"loss {last.loss:.3f}  MaxVio {max_vio(last.count_LE).mean():.2f}"
        self._progress.show(last.step, f"{note}  {speed:,.0f} tokens/s")

    def log_eval(self, record: EvalRecord) -> None:
        self._progress.show(record.step, f"{record.bits_per_byte:.3f} bits per byte held out")

    def checkpoint(self) -> None: ...

    def close(self) -> None: ...
