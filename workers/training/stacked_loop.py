"""Trains a stack of trials, each with its own run, records and checkpoints.

A trial leaves the stack if it is stopped, fails or loses its lease. The other trials continue with
unchanged numbers.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import torch

from evenload.pipeline.records.run import RunIdentity, Sink
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, Progress, TrialState
from evenload.workers.data.corpus import Corpus, check_fits, prepare_unchanged
from evenload.workers.data.shards import Batches
from evenload.workers.training.checkpoint import Checkpoint
from evenload.workers.training.loop import Trainer, TrainOutcome
from evenload.workers.training.ranks import ALONE
from evenload.workers.training.stacked import StackMember, TrialStack
from evenload.workers.training.step import StepOutput


class StackRequest(NamedTuple):
    """A trial to train in a stack, and the future that receives its outcome.

    `sink` and `report` are as in `loop.train`. An error in `report` ends only this trial.
    """

    spec: TrialSpec
    digest: str
    sink: Sink
    report: Callable[[Progress], Command]
    run: RunIdentity
    outcome: Future[TrainOutcome]


def train_stacked(requests: Sequence[StackRequest], settings: Settings) -> None:
    """Trains every trial until it ends or leaves, and sets the outcome of each.

    All trials must be resolved, have the same `pipeline.spec.stacking.shape_of`, and continue
    after the same step. An error in one trial ends only that trial; an error in the shared program
    ends all remaining trials.
    """
    try:
        first = requests[0]
        listed = first.run.tags.get("corpus")
        corpus = prepare_unchanged(first.spec.data, settings.corpus_dir, listed)
        trainers = [
            trainer
            for trainer in (_started(request, settings, corpus) for request in requests)
            if trainer is not None
        ]
        if trainers:
            _train_together(requests[0].spec, trainers)
    except Exception as error:  # noqa: BLE001  passed on to the callers that wait for the trials
        fail_all(requests, error)


def fail_all(requests: Sequence[StackRequest], error: BaseException) -> None:
    """Sets the error as the outcome of all requests without an outcome."""
    for request in requests:
        if not request.outcome.done():
            request.outcome.set_exception(error)


class _StackedTrainer(Trainer):
    """The trainer of one trial whose steps the stack takes."""

    def __init__(self, request: StackRequest, settings: Settings, corpus: Corpus) -> None:
        spec = request.spec
        check_fits(spec, corpus)
        super().__init__(
            spec,
            settings,
            request.digest,
            request.sink,
            request.report,
            None,
            ALONE,
            request.run.fence,
        )
        self.batches = Batches(corpus.train, spec.train.seq_len, spec.train.seed)
        cuda_rng = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self.member = StackMember(self.trainee, self.state, torch.get_rng_state(), cuda_rng)
        self._outcome = request.outcome
        self._stack: TrialStack | None = None
        self._place = 0

    def set_place(self, stack: TrialStack, place: int, done_at: float) -> None:
        """From now on, uses the weights, moments and balancer at this place of the stack."""
        self._stack, self._place = stack, place
        self.member = stack.members[place]
        self.trainee, self.state = self.member.trainee, None
        self._assembly = self._assembly._replace(trainee=self.trainee)
        self.share_clock(len(stack.members), done_at)

    def capture(self) -> Checkpoint:
        assert self._stack is not None
        return self._stack.checkpoint(self._place, self.step)

    def continues_after(self, output: StepOutput, flushes: bool, done_at: float) -> bool:
        """Records a step. Returns False and sets the outcome if the trial ends with it."""
        try:
            self.record(output, flushes, done_at)
            outcome = self.finish_step()
        except Exception as error:  # noqa: BLE001  a lost lease, or a loss that is not finite
            self._outcome.set_exception(error)
            return False
        if outcome is not None:
            self._outcome.set_result(outcome)
        return outcome is None


def _started(request: StackRequest, settings: Settings, corpus: Corpus) -> _StackedTrainer | None:
    """The trainer, ready for its next step; None if it cannot start or has no step left."""
    try:
        trainer = _StackedTrainer(request, settings, corpus)
        request.sink.start(request.run)
        if trainer.step == request.spec.train.steps:
            request.outcome.set_result(trainer.outcome(TrialState.TRAINED))
            return None
    except Exception as error:  # noqa: BLE001  any error of a trial is the failure of that trial
        request.outcome.set_exception(error)
        return None
    return trainer


def _train_together(spec: TrialSpec, trainers: list[_StackedTrainer]) -> None:
    """Takes steps until every trial has ended or left."""
    steps = {trainer.step for trainer in trainers}
    if len(steps) > 1:
        raise RuntimeError(f"trials after different steps {sorted(steps)} cannot form a stack")
    stack = TrialStack(spec, [trainer.member for trainer in trainers])
    _set_places(trainers, stack, time.perf_counter())
    while trainers:
        token_NBS = torch.stack([trainer.begin_step(trainer.batches) for trainer in trainers])
        outputs = stack.step(token_NBS, trainers[0].progress)
        flushes = trainers[0].flush_is_due()
        if flushes and token_NBS.is_cuda:
            torch.cuda.synchronize()
        done_at = time.perf_counter()
        stays = [
            trainer.continues_after(output, flushes, done_at)
            for trainer, output in zip(trainers, outputs, strict=True)
        ]
        trainers = [trainer for trainer, stay in zip(trainers, stays, strict=True) if stay]
        if trainers and len(trainers) < len(stays):
            stack.keep([place for place, stay in enumerate(stays) if stay])
        if flushes or len(trainers) < len(stays):
            _set_places(trainers, stack, done_at)


def _set_places(trainers: list[_StackedTrainer], stack: TrialStack, done_at: float) -> None:
    for place, trainer in enumerate(trainers):
        trainer.set_place(stack, place, done_at)
