"""Trains a stack of trials, each with its own run, shards and checkpoints.

A trial that is told to stop, fails or loses its lease leaves; the others do not notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import torch

from evenload.pipeline.records.run import RunIdentity, Sink
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, Progress, TrialState
from evenload.workers.data.corpus import Corpus, check_fits, prepare
from evenload.workers.data.shards import Batches
from evenload.workers.training.checkpoint import Checkpoint
from evenload.workers.training.loop import Trainer, TrainOutcome
from evenload.workers.training.ranks import ALONE
from evenload.workers.training.stacked import Part, TrialStack
from evenload.workers.training.step import StepOutput


class Enrolment(NamedTuple):
    """A trial that wants to be trained in a stack, and where it hears what came of it.

    `sink` and `report` are as in `loop.train`. What `report` raises ends this trial alone.
    """

    spec: TrialSpec
    digest: str
    sink: Sink
    report: Callable[[Progress], Command]
    run: RunIdentity
    outcome: Future[TrainOutcome]


def train_stacked(enrolments: Sequence[Enrolment], settings: Settings) -> None:
    """Trains every trial to its end or until it leaves, and tells each by its future.

    All must be resolved, of one `pipeline.sweep.stacking.shape_of`, and go on after the same step.
    What one trial raises is that trial's; an error of the whole program is every remaining trial's.
    """
    try:
        corpus = prepare(enrolments[0].spec.data, settings.corpus_dir)
        members = [
            member
            for member in (_begun(enrolment, settings, corpus) for enrolment in enrolments)
            if member is not None
        ]
        if members:
            _train_together(enrolments[0].spec, members)
    except Exception as error:  # noqa: BLE001  handed to whoever waits for the trials
        refuse(enrolments, error)


def refuse(enrolments: Sequence[Enrolment], error: BaseException) -> None:
    """Tells those that were not told yet that this ended them."""
    for enrolment in enrolments:
        if not enrolment.outcome.done():
            enrolment.outcome.set_exception(error)


class _Member(Trainer):
    """A trial whose steps are taken by a stack, which knows it by its place."""

    def __init__(self, enrolment: Enrolment, settings: Settings, corpus: Corpus) -> None:
        spec = enrolment.spec
        check_fits(spec, corpus)
        super().__init__(
            spec, settings, enrolment.digest, enrolment.sink, enrolment.report, None, ALONE
        )
        self.batches = Batches(corpus.train, spec.train.seq_len, spec.train.seed)
        cuda_rng = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self.part = Part(self.trainee, self.state, torch.get_rng_state(), cuda_rng)
        self._told = enrolment.outcome
        self._stack: TrialStack | None = None
        self._place = 0

    def take_place(self, stack: TrialStack, place: int, done_at: float) -> None:
        """From now on its weights, moments and balancer are those of the stack at this place."""
        self._stack, self._place = stack, place
        self.part = stack.parts[place]
        self.trainee, self.state = self.part.trainee, None
        self._assembly = self._assembly._replace(trainee=self.trainee)
        self.share_clock(len(stack.parts), done_at)

    def capture(self) -> Checkpoint:
        assert self._stack is not None
        return self._stack.checkpoint(self._place, self.step)

    def goes_on(self, output: StepOutput, flushes: bool, done_at: float) -> bool:
        """Records a step; where the trial ends with it, tells the outcome."""
        try:
            self.record(output, flushes, done_at)
            outcome = self.settle()
        except Exception as error:  # noqa: BLE001  a lost lease, or a loss that is not finite
            self._told.set_exception(error)
            return False
        if outcome is not None:
            self._told.set_result(outcome)
        return outcome is None


def _begun(enrolment: Enrolment, settings: Settings, corpus: Corpus) -> _Member | None:
    """The trial, ready for its next step; None where it could not begin or has no step left."""
    try:
        member = _Member(enrolment, settings, corpus)
        enrolment.sink.start(enrolment.run)
        if member.step == enrolment.spec.train.steps:
            enrolment.outcome.set_result(member.outcome(TrialState.TRAINED))
            return None
    except Exception as error:  # noqa: BLE001  whatever a trial raises is that trial's failure
        enrolment.outcome.set_exception(error)
        return None
    return member


def _train_together(spec: TrialSpec, members: list[_Member]) -> None:
    """Steps until every member has left."""
    steps = {member.step for member in members}
    if len(steps) > 1:
        raise RuntimeError(f"trials after steps {sorted(steps)} cannot be trained as one")
    stack = TrialStack(spec, [member.part for member in members])
    _seat(members, stack, time.perf_counter())
    while members:
        token_NBS = torch.stack([member.take(member.batches) for member in members])
        outputs = stack.step(token_NBS, members[0].progress)
        flushes = members[0].flush_is_due()
        if flushes and token_NBS.is_cuda:
            torch.cuda.synchronize()
        done_at = time.perf_counter()
        stays = [
            member.goes_on(output, flushes, done_at)
            for member, output in zip(members, outputs, strict=True)
        ]
        members = [member for member, goes_on in zip(members, stays, strict=True) if goes_on]
        if members and len(members) < len(stays):
            stack.keep([place for place, goes_on in enumerate(stays) if goes_on])
        if flushes or len(members) < len(stays):
            _seat(members, stack, done_at)


def _seat(members: list[_Member], stack: TrialStack, done_at: float) -> None:
    for place, member in enumerate(members):
        member.take_place(stack, place, done_at)
