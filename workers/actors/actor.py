"""What train and eval actors share: claim, compute, write the verdict, tell the sink.

No ray here: an actor is a plain class, and `ray_executor` makes it one.
"""

from __future__ import annotations

import logging
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from pipeline.errors import LeaseLost
from pipeline.records import Claim, RunIdentity, Sink, TrialState, WorkKind
from pipeline.settings import Settings
from pipeline.spec import TrialSpec
from pipeline.store.sweep_store import SweepStore
from pipeline.sweep.worker_id import worker_id
from pipeline.tracking.mirror import fetch
from workers.actors.attempt_log import attempt_log, log_path
from workers.actors.heartbeat import Heartbeat
from workers.actors.run_identity import run_identity

logger = logging.getLogger(__name__)

SinkFactory = Callable[[Settings, RunIdentity], Sink]


class Verdict(NamedTuple):
    """How an attempt ended. QUEUED: told to stop, the trial goes on from its checkpoint."""

    state: TrialState
    result: dict[str, float]
    checkpoint_uri: str | None = None
    error: str | None = None


class Assignment(NamedTuple):
    """What computing a trial needs."""

    claim: Claim
    spec: TrialSpec
    run: RunIdentity
    sink: Sink
    heartbeat: Heartbeat


class Actor(ABC):
    """Works on one trial after the other; the store knows of every one before `work` returns.

    Args:     name: as the executor calls it, unique over all executors
              settings: with an absolute `home`; the same files on every host
    """

    kind: ClassVar[WorkKind]

    def __init__(self, name: str, settings: Settings, sink_factory: SinkFactory) -> None:
        self._worker_id = worker_id(name)
        self._settings = settings
        self._sink_factory = sink_factory
        self._store = SweepStore(settings.store_url)
        self._heartbeat: Heartbeat | None = None
        self._stopping = False

    @abstractmethod
    def compute(self, assignment: Assignment) -> Verdict:
        """Does the work. What it raises fails the trial, but for LeaseLost."""

    def work(self, digest: str) -> TrialState | None:
        """Claims the trial and works on it.

        Returns:  the state it left the trial in; None where another worker has it
        """
        if self._stopping:
            return None
        settings = self._settings
        claim = self._store.claim(digest, self.kind, self._worker_id, settings.lease_seconds)
        if claim is None:
            return None
        with attempt_log(log_path(settings, claim)):
            logger.info("attempt %d by %s: %s", claim.attempt, claim.worker, claim.label)
            try:
                return self._work_on(claim)
            except LeaseLost as lost:
                logger.warning("%s", lost)
                return None

    def request_stop(self) -> None:
        """The running trial writes a checkpoint and is given back; no other is taken."""
        self._stopping = True
        if self._heartbeat is not None:
            self._heartbeat.request_stop()

    def _work_on(self, claim: Claim) -> TrialState:
        sink: Sink | None = None
        with Heartbeat(
            self._store, claim, self._settings, lambda: getattr(sink, "run_id", None)
        ) as self._heartbeat:
            if self._stopping:
                self._heartbeat.request_stop()
            try:
                spec = TrialSpec.model_validate(claim.spec)
                fetch(self._settings, claim.digest)
                run = run_identity(claim, spec, self._settings)
                logger.info("starts after step %d", run.resumed_from_step)
                sink = self._sink_factory(self._settings, run)
                verdict = self.compute(Assignment(claim, spec, run, sink, self._heartbeat))
            except LeaseLost:
                raise
            except Exception:  # noqa: BLE001  whatever a trial raises is that trial's failure
                verdict = Verdict(TrialState.FAILED, {}, error=traceback.format_exc())
                logger.error("failed\n%s", verdict.error)
            state = self._write(claim, verdict, getattr(sink, "run_id", None))
        logger.info("the trial is %s", state)
        # After the verdict: a run in MLflow must never say more than the store.
        if sink is not None:
            sink.close(state, verdict.result, verdict.error)
        return state

    def _write(self, claim: Claim, verdict: Verdict, run_id: str | None) -> TrialState:
        if verdict.state is TrialState.QUEUED:
            return self._store.release(claim)
        return self._store.finish(
            claim,
            verdict.state,
            verdict.result,
            error=verdict.error,
            checkpoint_uri=verdict.checkpoint_uri,
            run_id=run_id,
        )
