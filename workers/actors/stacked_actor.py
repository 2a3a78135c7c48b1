"""A train actor that claims several stackable trials and trains them as one program.

Each claimed trial has a thread that does everything except the steps as in a train actor:
heartbeat, sink, verdict and waiting for the store. The actor's own thread takes the steps of all.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue

import torch

from evenload.pipeline.errors import LeaseLost
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Claim, TrialState
from evenload.pipeline.sweep.stacking import LARGEST_STACK, stack_size
from evenload.workers.actors.actor import Assignment, SinkFactory, Verdict
from evenload.workers.actors.attempt_log import attempt_log, log_of
from evenload.workers.actors.device_memory import check_memory
from evenload.workers.actors.energy import EnergyMeter
from evenload.workers.actors.train_actor import TrainActor
from evenload.workers.training.loop import TrainOutcome
from evenload.workers.training.stacked_loop import StackRequest, fail_all, train_stacked

logger = logging.getLogger(__name__)


class StackedActor(TrainActor):
    """Args: slots: number of workers that train at once and share the stackable trials evenly"""

    def __init__(
        self,
        name: str,
        settings: Settings,
        sink_factory: SinkFactory,
        *,
        handles_sigterm: bool = False,
        slots: int = 1,
    ) -> None:
        super().__init__(name, settings, sink_factory, handles_sigterm=handles_sigterm)
        self._name = name
        self._slots = slots
        self._companions: list[Claim] = []
        self._members: list[_Member] = []

    def request_stop(self, preempted: bool = False) -> None:
        super().request_stop(preempted)
        for member in self._members:
            member.request_stop(preempted)

    def _claim(self, digest: str) -> Claim | None:
        # If the store stops answering in between, all claims are given up and made again.
        claim = super()._claim(digest)
        self._companions = [] if claim is None else list(self._claimed_companions(claim))
        return claim

    def _claimed_companions(self, lead: Claim) -> Iterator[Claim]:
        spec = TrialSpec.model_validate(lead.spec)
        most = self._slots * LARGEST_STACK[spec.runtime.device]  # more would not change the stack
        alike = self._store.stackable_trials(lead.digest, most)
        wanted = stack_size(spec, 1 + alike.untrained, self._slots) - 1
        # Starts at the end, because other workers are about to take the first trials.
        for digest in alike.last:
            if wanted <= 0:
                return
            claim = self._store.claim(
                digest, self.kind, self._worker_id, self._settings.lease_seconds
            )
            if claim is not None:
                wanted -= 1
                yield claim

    def _work_logged(self, claim: Claim) -> TrialState | None:
        claims = [claim, *self._companions]
        if len(claims) == 1:
            return super()._work_logged(claim)
        with ExitStack() as logs:
            for one in reversed(claims):
                logs.enter_context(attempt_log(log_of(self._settings, one), self._settings))
            labels = ", ".join(claim.label for claim in claims)
            logger.info("trains %d trials as one program: %s", len(claims), labels)
            return self._work_together(claims)

    def _work_together(self, claims: Sequence[Claim]) -> TrialState | None:
        """Returns the final state of the first trial."""
        queue: SimpleQueue[StackRequest | None] = SimpleQueue()
        arguments = (self._name, self._settings, self._sink_factory)
        members = [_Member(*arguments, queue, len(claims)) for _ in claims]
        with self._stopping_with(members), ThreadPoolExecutor(len(claims)) as pool:
            states = [
                pool.submit(member.work_as_member, claim)
                for member, claim in zip(members, claims, strict=True)
            ]
            requests = [request for _ in claims if (request := queue.get()) is not None]
            try:
                for stack in _by_step(requests):
                    train_stacked(stack, self._settings)
            except BaseException as error:
                fail_all(requests, error)
                raise
        return states[0].result()

    @contextmanager
    def _stopping_with(self, members: list["_Member"]) -> Iterator[None]:
        """Passes stop requests on to the members, and closes them at the end."""
        self._members = members
        try:
            if self._stopping:
                self.request_stop(self._preempted)
            yield
        finally:
            self._members = []
            for member in members:
                member.close()


class _Member(TrainActor):
    """Works on one trial of a stack. Instead of training it waits for the stack to train it."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        sink_factory: SinkFactory,
        queue: SimpleQueue[StackRequest | None],
        shared_by: int,
    ) -> None:
        super().__init__(name, settings, sink_factory)
        self._queue = queue
        self._shared_by = shared_by
        self._has_answered = False

    def work_as_member(self, claim: Claim) -> TrialState | None:
        """Returns the final state of the trial, or None if its lease was lost."""
        try:
            return self._work_on(claim)
        except LeaseLost as lost:
            logger.warning("%s", lost)
            return None
        finally:
            if not self._has_answered:
                self._queue.put(None)

    def compute(self, assignment: Assignment) -> Verdict:
        spec, outcome = assignment.spec, Future[TrainOutcome]()
        check_memory(spec)
        energy = EnergyMeter(torch.device(spec.runtime.device))
        self._has_answered = True
        self._queue.put(
            StackRequest(
                spec,
                assignment.claim.digest,
                assignment.sink,
                assignment.heartbeat.report,
                assignment.run,
                outcome,
            )
        )
        state, result, checkpoint_uri = outcome.result()
        if result:
            steps = spec.train.steps - assignment.run.resumed_from_step
            result |= energy.per_step(steps * self._shared_by)
        return Verdict(state, result, checkpoint_uri)

    def close(self) -> None:
        self._store.close()


def _by_step(requests: Sequence[StackRequest]) -> list[list[StackRequest]]:
    """Groups trials that resume after the same step."""
    stacks = defaultdict(list)
    for request in requests:
        stacks[request.run.resumed_from_step].append(request)
    return list(stacks.values())
