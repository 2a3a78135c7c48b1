"""Trains a trial from its newest checkpoint to its end, or until a command to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evenload.pipeline.errors import SpecError
from evenload.pipeline.figures.loads import Loads, max_vio
from evenload.pipeline.figures.metrics import figures
from evenload.pipeline.records.fence import Fence
from evenload.pipeline.records.run import RunIdentity, Sink, StepRecord
from evenload.pipeline.records.shards import counts_on_disk, read_scalars
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, CurvePoint, Progress, TrialState
from evenload.workers.data.corpus import Corpus, check_fits, prepare_unchanged
from evenload.workers.data.shards import Batches
from evenload.workers.training import checkpoint
from evenload.workers.training.checkpoint import Checkpoint
from evenload.workers.training.curve import CurveMeter
from evenload.workers.training.ranks import ALONE, Ranks
from evenload.workers.training.schedule import learning_rate
from evenload.workers.training.setup import Assembly, assemble
from evenload.workers.training.step import StepOutput, Watch, train_step, trigger_compilation
from evenload.workers.training.telemetry import Telemetry

# Shortest time between two writes of records. An MLflow call takes 15 ms on SQLite, more than a
# step of the smallest trials, and readers refresh no more often.
FLUSH_INTERVAL_SECONDS = 3.0


class TrainOutcome(NamedTuple):
    state: TrialState  # TRAINED; after a command to stop QUEUED or STOPPED
    result: dict[str, float]  # final figures; empty after a command to stop
    checkpoint_uri: str


def checkpoint_dir(settings: Settings, digest: str) -> Path:
    return settings.trial_dir(digest) / "checkpoints"


def train(
    spec: TrialSpec,
    *,
    settings: Settings,
    digest: str,
    sink: Sink,
    report: Callable[[Progress], Command],
    run: RunIdentity,
    watch: Watch | None = None,
    ranks: Ranks = ALONE,
    on_curve_point: Callable[[CurvePoint], None] | None = None,
) -> TrainOutcome:
    """Trains a resolved trial. On CPU a resumed run equals an uninterrupted one bit for bit.

    `report` is called after every step with the newest figures. If it returns STOP or END, the
    trainer writes a checkpoint and ends with the state QUEUED or STOPPED.

    Args:
        sink:  this function starts it with `run`; the caller closes it
        watch: called for every micro-batch with the model's output and the bias that routed it
        ranks: must have the size spec.runtime.workers; only the first rank obeys its `report`,
               writes checkpoints and returns a result
        on_curve_point: receives the points of the learning curve if spec.eval asks for one
    Raises:   SpecError: the corpus does not fit; FloatingPointError: the loss is not finite;
              PeerLost: another rank died
    """
    if spec.runtime.workers != ranks.size:
        raise SpecError(
            f"runtime.workers={spec.runtime.workers}, but this run has {ranks.size}; "
            "use `evenload sweep run` or set runtime.workers to 1"
        )
    corpus = prepare_unchanged(spec.data, settings.corpus_dir, run.tags.get("corpus"))
    check_fits(spec, corpus)
    trainer = Trainer(spec, settings, digest, sink, report, watch, ranks, run.fence)
    if on_curve_point is not None and ranks.is_first:
        trainer.measure_curve(on_curve_point, corpus)
    sink.start(run)
    batches = Batches(corpus.train, spec.train.seq_len, spec.train.seed)
    if spec.train.compile and trainer.step < spec.train.steps:
        trainer.compile_ahead(batches)
    while trainer.step < spec.train.steps:
        trainer.train_one(batches)
        outcome = trainer.finish_step()
        if outcome is not None:
            return outcome
    return trainer.outcome(TrialState.TRAINED)


class Trainer:
    """The state of one run, with methods to take, record and report its steps."""

    def __init__(
        self,
        spec: TrialSpec,
        settings: Settings,
        digest: str,
        sink: Sink,
        report: Callable[[Progress], Command],
        watch: Watch | None,
        ranks: Ranks,
        fence: Fence,
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._sink = sink
        self._report = report
        self._fence = fence
        self._trial_dir = settings.trial_dir(digest)
        self._directory = checkpoint_dir(settings, digest)
        self._telemetry = Telemetry(spec.train.tokens_per_step)
        self._last: StepRecord | None = None
        self._last_max_vio = 0.0
        self._flushed_at = -math.inf  # reading of the performance counter
        self._assembly = assembly = assemble(spec)
        self._meter: CurveMeter | None = None
        self.trainee = assembly.trainee._replace(watch=watch, ranks=ranks)
        self.device, self._ranks = assembly.device, ranks
        self.step, self.state = self._resumed(assembly)
        ranks.check_step(self.step)
        self.checkpoint_uri = self._uri(checkpoint.newest(self._directory))

    def measure_curve(self, on_point: Callable[[CurvePoint], None], corpus: Corpus) -> None:
        """Passes the points of the learning curve to `on_point`, each before its step's report.

        This works only for steps taken by `train_one`.
        """
        before = float(read_scalars(self._trial_dir)["seconds"][: self.step].sum())
        self._meter = CurveMeter(self._spec, self._assembly, corpus, on_point, before)

    def _resumed(self, assembly: Assembly) -> tuple[int, Any]:
        path = checkpoint.newest(self._directory)
        if path is None:
            return 0, assembly.state
        saved = checkpoint.load(path)
        trainee = assembly.trainee
        state = checkpoint.restore(saved, trainee.model, trainee.optimizer, assembly.state)
        return saved.step, state

    def compile_ahead(self, batches: Batches) -> None:
        """Compiles before the first step, so that no step includes the time of compiling."""
        train = self._spec.train
        share = train.micro_batch_sequences or train.batch_sequences // self._ranks.size
        token_BS = torch.from_numpy(batches.take(0, share)).to(self.device)
        trigger_compilation(self.trainee, self.state, token_BS)
        self._telemetry.restart_clock()

    def train_one(self, batches: Batches) -> None:
        token_BS = self.begin_step(batches)
        micro_batches = token_BS.split(self._spec.train.micro_batch_sequences or len(token_BS))
        output, self.state = train_step(self.trainee, self.state, micro_batches, self.progress)
        self.record(output)

    def begin_step(self, batches: Batches) -> Tensor:
        """Sets the learning rate of the next step and returns this rank's sequences."""
        train, self.step = self._spec.train, self.step + 1
        for group in self.trainee.optimizer.param_groups:
            group["lr"] = learning_rate(train, self.step)
        share = train.batch_sequences // self._ranks.size
        start = (self.step - 1) * train.batch_sequences + self._ranks.rank * share
        return torch.from_numpy(batches.take(start, share)).to(self.device)

    @property
    def progress(self) -> float:
        """Share of the training that is done after the current step."""
        return self.step / self._spec.train.steps

    def record(
        self, output: StepOutput, flushes: bool | None = None, done_at: float | None = None
    ) -> None:
        """Args:
        flushes: whether to write records now; None: only if they are due
        done_at: reading of the performance counter at the end of the step; None: now
        """
        self._telemetry.add(self.step, learning_rate(self._spec.train, self.step), output)
        if self.flush_is_due() if flushes is None else flushes:
            self._flush(done_at)

    def flush_is_due(self) -> bool:
        """True at checkpoints and at the end, and at logged steps if the last write is old."""
        runtime, step = self._spec.runtime, self.step
        if step == self._spec.train.steps or step % runtime.checkpoint_every == 0:
            return True
        waited = time.perf_counter() - self._flushed_at > FLUSH_INTERVAL_SECONDS
        return waited and step % runtime.log_every == 0

    def share_clock(self, trials: int, done_at: float) -> None:
        """From now on, counts only this trial's share of the time of steps of several trials.

        Args:     done_at: reading of the performance counter at the end of the last step
        """
        self._telemetry.share_clock(trials, done_at)

    def finish_step(self) -> TrainOutcome | None:
        """Reports the step and writes a due checkpoint. Returns an outcome if the run ends here."""
        if self._meter is not None and self._meter.is_due(self.step):
            self._flush()
            self._meter.measure(self.step, self.state.bias_LE)
            self._telemetry.restart_clock()
        command = self.report_progress()
        is_last, stops = self.step == self._spec.train.steps, command is not Command.CONTINUE
        if is_last or stops or self.step % self._spec.runtime.checkpoint_every == 0:
            self.write_checkpoint()
        if is_last:
            return self.outcome(TrialState.TRAINED)
        if stops:
            state = TrialState.STOPPED if command is Command.END else TrialState.QUEUED
            return self.outcome(state)
        return None

    def outcome(self, state: TrialState) -> TrainOutcome:
        result = self.result() if state is TrialState.TRAINED else {}
        return TrainOutcome(state, result, self.checkpoint_uri)

    def report_progress(self) -> Command:
        return self._ranks.broadcast(self._report(self._progress()))

    def _progress(self) -> Progress:
        last = self._last
        if last is None:
            return Progress(self.step, self._spec.train.steps, 0, 0.0, 0.0, 0.0)
        return Progress(
            step=self.step,
            steps=self._spec.train.steps,
            tokens=self.step * self._spec.train.tokens_per_step,
            tokens_per_second=self._spec.train.tokens_per_step / last.seconds,
            loss=last.loss,
            max_vio=self._last_max_vio,
        )

    def _max_vio(self, record: StepRecord) -> float:
        return float(max_vio(record.count_LE, self._spec.balancer.target).mean())

    def write_checkpoint(self) -> None:
        """Writes records first, so that every step before a checkpoint has its record."""
        self._flush()
        if not self._ranks.is_first:
            return
        path = checkpoint.save(self._directory, self.capture(), self._fence)
        self.checkpoint_uri = self._uri(path)
        self._sink.checkpoint()
        self._telemetry.restart_clock()

    def capture(self) -> Checkpoint:
        trainee = self.trainee
        return checkpoint.capture(self.step, trainee.model, trainee.optimizer, self.state)

    def result(self) -> dict[str, float]:
        """Final figures from the recorded counts of all attempts, on the first rank only."""
        if not self._ranks.is_first:
            return {}
        train = self._spec.train
        scalars = read_scalars(self._trial_dir)
        if len(scalars["step"]) != train.steps:
            raise RuntimeError(
                f"{self._trial_dir} has records of {len(scalars['step'])} of {train.steps} steps; "
                "its files were removed or written by another run: delete the folder and retry"
            )
        with counts_on_disk(self._trial_dir) as count_SLE:
            of_loads = figures("run", Loads.of(self._spec, count_SLE))
        seconds_S = scalars["seconds"]
        tail = max(1, train.steps // 10)
        return {
            **of_loads,
            "train_loss": float(scalars["loss"][-tail:].mean()),
            "tokens": float(train.steps * train.tokens_per_step),
            "steps": float(train.steps),
            "train_seconds": float(seconds_S.sum()),
            "tokens_per_second": float(train.steps * train.tokens_per_step / seconds_S.sum()),
            "tracking_errors": float(self._sink.errors),
        }

    def _flush(self, done_at: float | None = None) -> None:
        records = self._telemetry.drain(done_at)
        if records:
            self._flushed_at = time.perf_counter()
            self._last = records[-1]
            self._last_max_vio = self._max_vio(records[-1])
            self._sink.log_steps(records)
            if self._meter is not None:
                self._meter.add_steps(records)
            self._telemetry.restart_clock()

    def _uri(self, path: Path | None) -> str:
        return self._settings.uri_of(path) if path else ""
