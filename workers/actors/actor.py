"""The base class of train and eval actors: it claims and computes a trial and writes the verdict.

An actor is a plain class without Ray; `ray_executor` makes it a Ray actor.
"""

import logging
import os
import signal
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import FrameType
from typing import ClassVar, NamedTuple

import torch
from pydantic import ValidationError

from evenload.pipeline.errors import (
    DeviceBusy,
    LeaseLost,
    MirrorUnavailable,
    PeerLost,
    SpecError,
    StoreUnavailable,
)
from evenload.pipeline.outage import retry_while_away
from evenload.pipeline.records.fence import Fence
from evenload.pipeline.records.mirror import Mirrored, fetch
from evenload.pipeline.records.run import RunIdentity, Sink
from evenload.pipeline.redaction import redacted, secrets
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Charge, Claim, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.worker_id import worker_id
from evenload.workers.actors.attempt_log import attempt_log, log_of
from evenload.workers.actors.heartbeat import Heartbeat
from evenload.workers.actors.run_identity import run_identity

logger = logging.getLogger(__name__)

SinkFactory = Callable[[Settings, RunIdentity], Sink]


# Another attempt would end in the same way. Of anything else, such as a full disk, a file server
# that is away or a kernel that could not be launched, it may not.
LASTING = (SpecError, ValidationError, FloatingPointError, torch.OutOfMemoryError)


class Verdict(NamedTuple):
    """How an attempt ended.

    QUEUED: stopped on request, the trial will resume from its checkpoint. STOPPED: ended on
    request, the checkpoint is kept.
    """

    state: TrialState
    result: dict[str, float]
    checkpoint_uri: str | None = None
    error: str | None = None
    may_pass: bool = False  # a failure that another attempt may not see


class Assignment(NamedTuple):
    """Everything that is needed to compute a trial."""

    claim: Claim
    spec: TrialSpec
    run: RunIdentity
    sink: Sink
    heartbeat: Heartbeat


class Actor(ABC):
    """Works on one trial after another. `work` returns after the store has the verdict.

    Args:     name: the executor's name for it, unique over all executors
              settings: with an absolute `home` that has the same files on every host
              handles_sigterm: treat SIGTERM as preemption and release the running trial with a
                  checkpoint; for a process that the actor has for itself, in its main thread
    """

    kind: ClassVar[WorkKind]

    def __init__(
        self,
        name: str,
        settings: Settings,
        sink_factory: SinkFactory,
        *,
        handles_sigterm: bool = False,
    ) -> None:
        self._worker_id = worker_id(name)
        self._settings = settings
        self._sink_factory = sink_factory
        self._store = SweepStore(settings.store_url)
        self._heartbeat: Heartbeat | None = None
        self._stopping = False
        self._preempted = False
        self._is_working = False
        if handles_sigterm:
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def prepare(self, claim: Claim, spec: TrialSpec, fence: Fence) -> None:  # noqa: B027  optional
        """Puts what the attempt starts from into the folder of the trial."""

    @abstractmethod
    def compute(self, assignment: Assignment) -> Verdict:
        """Computes the trial. Any error except the following fails the attempt.

        LeaseLost and PeerLost leave it as it is. MirrorUnavailable releases it.
        """

    def work(self, digest: str) -> TrialState | None:
        """Claims the trial and works on it.

        Returns:  the new state of the trial; None if another worker has it
        Raises:   PeerLost: the trial stays claimed, as if this worker had died
        """
        if self._stopping:
            return None
        self._is_working = True
        try:
            claim = retry_while_away(lambda: self._claim(digest), StoreUnavailable)
            return None if claim is None else self._work_logged(claim)
        finally:
            self._is_working = False

    def _work_logged(self, claim: Claim) -> TrialState | None:
        with attempt_log(log_of(self._settings, claim), self._settings):
            logger.info("attempt %d by %s: %s", claim.attempt, claim.worker, claim.label)
            try:
                return self._work_on(claim)
            except LeaseLost as lost:
                logger.warning("%s", lost)
                return None

    def request_stop(self, preempted: bool = False) -> None:
        """Writes a checkpoint, releases the running trial and takes no other.

        Args:     preempted: the host is about to be removed
        """
        self._stopping, self._preempted = True, self._preempted or preempted
        if self._heartbeat is not None:
            self._heartbeat.request_stop()

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if not self._is_working:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.request_stop(preempted=True)

    def _claim(self, digest: str) -> Claim | None:
        # The store may have granted a claim without an answer that reached this worker.
        self._store.lose(self._worker_id, "the store did not answer", Charge.NOTHING)
        return self._store.claim(digest, self.kind, self._worker_id, self._settings.lease_seconds)

    def _work_on(self, claim: Claim) -> TrialState:
        with (
            Heartbeat(self._store, claim, self._settings) as self._heartbeat,
            Mirrored(self._settings, claim.digest, claim.attempt) as mirrored,
        ):
            if self._stopping:
                self._heartbeat.request_stop()
            try:
                verdict = self._verdict(claim, mirrored, self._heartbeat)
            except (LeaseLost, PeerLost):
                raise
            except MirrorUnavailable as away:
                reason = redacted(str(away).partition("\n")[0], secrets(self._settings))
                verdict = Verdict(TrialState.QUEUED, {}, error=reason)
                logger.warning("released: %s", reason)
            except Exception as reason:  # noqa: BLE001  any error of a trial is its failure
                error = redacted(traceback.format_exc(), secrets(self._settings))
                may_pass = not isinstance(reason, LASTING) or isinstance(
                    reason, StoreUnavailable | DeviceBusy
                )
                verdict = Verdict(TrialState.FAILED, {}, error=error, may_pass=may_pass)
                logger.error("failed\n%s", error)
            state = retry_while_away(lambda: self._write(claim, verdict), StoreUnavailable)
        logger.info("the trial is %s", state)
        mirrored.push_rest()
        return state

    def _verdict(self, claim: Claim, mirrored: Mirrored, heartbeat: Heartbeat) -> Verdict:
        """Computes the trial. Its records are complete and mirrored before it has a verdict."""
        spec = TrialSpec.model_validate(claim.spec)
        folder = self._settings.trial_dir(claim.digest)
        fence = Fence(folder, claim.attempt, claim.worker, heartbeat.confirm)
        heartbeat.confirm()
        self._fetch(claim.digest)
        fence.take()
        mirrored.begin()
        self.prepare(claim, spec, fence)
        run = run_identity(claim, spec, self._settings, fence)
        logger.info("starts after step %d", run.resumed_from_step)
        sink = self._sink_factory(self._settings, run)
        try:
            verdict = self.compute(Assignment(claim, spec, run, sink, heartbeat))
        except (LeaseLost, PeerLost):
            raise
        except BaseException:
            self._close(sink, claim)
            raise
        self._close(sink, claim)
        mirrored.deliver(lambda: heartbeat.must_stop)
        if mirrored.errors and "tracking_errors" in verdict.result:
            verdict.result["tracking_errors"] += mirrored.errors
        return verdict

    def _close(self, sink: Sink, claim: Claim) -> None:
        """Raises: LeaseLost: nothing is written, because another attempt may write by now"""
        seconds = self._settings.lease_seconds
        retry_while_away(lambda: self._store.heartbeat(claim, None, seconds), StoreUnavailable)
        sink.close()

    def _fetch(self, digest: str) -> None:
        """Pulls what other hosts have mirrored of a trial.  Raises: MirrorUnavailable"""
        assert self._heartbeat is not None
        heartbeat = self._heartbeat
        fetch(self._settings, digest, lambda: heartbeat.must_stop)

    def _write(self, claim: Claim, verdict: Verdict) -> TrialState:
        assert self._heartbeat is not None
        self._heartbeat.store_curve()
        if verdict.state is TrialState.QUEUED:
            reason = verdict.error or ("preempted" if self._preempted else "stop requested")
            return self._store.release(claim, reason, preempted=self._preempted)
        return self._store.finish(
            claim,
            verdict.state,
            verdict.result,
            error=verdict.error,
            checkpoint_uri=verdict.checkpoint_uri,
            may_pass=verdict.may_pass,
        )
