"""Runs one trial in this process with a progress bar, and stores it like a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from evenload.pipeline.errors import PeerLost
from evenload.pipeline.figures.loads import max_vio
from evenload.pipeline.records.run import EvalRecord, RunIdentity, Sink, StepRecord
from evenload.pipeline.records.scores import write_recording
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.records.sinks import SinkGroup, default_sinks
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, TrialState
from evenload.pipeline.sweep.projection import projecting
from evenload.workers.actors.data_parallel import train_in_group
from evenload.workers.actors.device_memory import check_memory
from evenload.workers.actors.eval_actor import EvalActor
from evenload.workers.actors.train_actor import TrainActor
from evenload.workers.cli.progress import StepProgress
from evenload.workers.cli.session import initial_trials, log, open_store
from evenload.workers.cli.sweep_runner import say_what_is_missing
from evenload.workers.simulation.recording import ScoreRecorder
from evenload.workers.training.loop import train as run_training


def run_trial(asked: TrialSpec, name: str, settings: Settings, record_scores: Path | None) -> str:
    """Trains the trial, scores it on held-out text and returns the id of its sweep.

    Raises:   SpecError: the trial cannot run here
              typer.Exit(1): a worker was lost
    """
    spec = as_sweep(asked, name)
    with log.status("reading the corpus"):
        trials = initial_trials(spec, settings)
    check_memory(trials[0][1])
    store = open_store(settings)
    sweep_id = store.add_sweep(spec, trials)
    ((digest, trial),) = trials
    recorder = ScoreRecorder(trial.model.top_k)
    with (
        projecting(store, settings) as projection,
        StepProgress(log, trial.train.steps) as progress,
    ):

        def sinks(settings: Settings, run: RunIdentity) -> Sink:
            return SinkGroup([default_sinks(settings, run), ProgressSink(progress)])

        if trial.runtime.workers > 1:
            _train_in_group(settings, digest)
        else:
            watch = recorder if record_scores else None
            TrainActor("here", settings, sinks, watch=watch).work(digest)
        EvalActor("here", settings, sinks).work(digest)
        store.finish_sweep(sweep_id)
    say_what_is_missing(projection)
    if record_scores is not None and store.trial(digest).state is TrialState.COMPLETED:
        if recorder.num_steps < trial.train.steps:
            recorder = _record_again(settings, digest, trial)
        _write_scores(recorder, record_scores)
    return sweep_id


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


def _train_in_group(settings: Settings, digest: str) -> None:
    """Trains in separate processes; the progress bar does not move until they end."""
    try:
        train_in_group(settings, digest, default_sinks)
    except PeerLost as lost:
        log.print(f"worker lost: {lost}; the same command resumes from the checkpoint")
        raise typer.Exit(1) from None


def _write_scores(recorder: ScoreRecorder, path: Path) -> None:
    recording = recorder.recording()
    write_recording(path, recording)
    steps, layers, tokens, _ = recording.score_NLTE.shape
    log.print(f"{path}: scores of {steps} steps, {layers} layers, {tokens} tokens per step")


def as_sweep(trial: TrialSpec, stem: str) -> SweepSpec:
    """A sweep with only this trial, named after its file."""
    name = "".join(sign if sign.isalnum() or sign in "._-" else "-" for sign in stem)
    return SweepSpec(
        name=f"train-{name}"[:64],
        base=trial.model_dump(mode="json"),
        axes={"train.seed": [trial.train.seed]},
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
