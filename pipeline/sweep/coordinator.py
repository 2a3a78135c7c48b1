"""Runs sweeps: reads their status, lets `plan` decide what to do, and does it.

It may be killed at any line. The next coordinator continues from the store, which has all state.
"""

import logging
import math
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Protocol

from evenload.pipeline.errors import CannotRun, SpecError, StoreUnavailable
from evenload.pipeline.states import OVER, Order, Snapshot, SweepState, TrialRecord, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep import plan
from evenload.pipeline.sweep.lease_watch import LeaseWatch
from evenload.pipeline.sweep.worker_id import is_dead_here, name_of, worker_id

logger = logging.getLogger(__name__)

Observer = Callable[[Sequence[TrialRecord]], None]
AT_REST = (*OVER, SweepState.PAUSED)
PRESENCE_SECONDS = 10.0
OBSERVED_SHARE = 0.1  # largest share of the time that reading trials for the observer may take


class Executor(Protocol):
    """Starts workers that claim trials, and reports on them. Workers are identified by name."""

    def launch(self, kind: WorkKind, digest: str) -> bool:
        """Lets a free worker claim this trial and work on it. Returns at once.

        Returns:  False if the trial needs more memory or devices than are free now
        Raises:   CannotRun: it needs more than the cluster can ever give
        """

    def free(self) -> Mapping[WorkKind, int]:
        """The number of further launches of each kind that are possible now."""

    def busy(self) -> Mapping[str, str]:
        """The workers that were launched and have not returned, with their trials' digests."""

    def gone(self) -> Mapping[str, plan.Death]:
        """The workers that died since the last call."""

    def wait(self, seconds: float) -> None:
        """Waits for this time, or until a worker returns or dies."""

    def kill(self, worker: str) -> None:
        """Ends the worker. A worker that is gone already is none."""

    def facts(self) -> Mapping[str, Any]:
        """Facts about nodes and workers for the dashboard, as JSON values."""

    def close(self) -> None:
        """Tells workers to stop, waits until they have released their trials, and ends them."""


class Policies(Protocol):
    """Adds trials to sweeps and stops trials of sweeps that need it."""

    def apply(self, sweep_id: str, room: int) -> bool:
        """Applies the policies of an active sweep; returns whether it may get more trials later.

        The coordinator calls this in every round, so it must be quick if there is nothing to do.

        Args:     room: how many more of its trials could start now
        """


class Coordinator:
    """Runs sweeps to their end with the workers of an executor.

    Args:     observer: is called with the sweeps' trials during the run and at its end
              policies: adds trials to sweeps and stops trials
              outage_seconds: how long the database may be away before `run` raises
              clock: seconds that never go back
    """

    def __init__(
        self,
        store: SweepStore,
        executor: Executor,
        *,
        observer: Observer | None = None,
        policies: Policies | None = None,
        poll_seconds: float = 0.5,
        outage_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._executor = executor
        self._observer = observer
        self._policies = policies
        self._poll_seconds = poll_seconds
        self._outage_seconds = outage_seconds
        self._clock = clock
        self._leases = LeaseWatch(clock)
        self._next_presence = self._next_look = -math.inf
        self._name = worker_id(f"coordinator-{secrets.token_hex(3)}")
        self._stopping = threading.Event()

    def run(self, *sweep_ids: str) -> bool:
        """Runs these sweeps until all are over or paused; without arguments all, until stopped.

        `stop`, SIGINT or SIGTERM stop it: workers write checkpoints and release their trials. A
        second signal does not wait for them. At the end the executor is closed.

        Returns:  True if the sweeps are over or paused, False if it was stopped
        Raises:   SpecError: a sweep is unknown
                  StoreUnavailable: the database was away for more than `outage_seconds`
        """
        with self._stopping_on_signals():
            try:
                for sweep_id in sweep_ids:
                    self._store.sweep(sweep_id)
                return self._run(sweep_ids)
            finally:
                self._executor.close()
                with suppress(StoreUnavailable, OSError):
                    self._store.withdraw(self._name)

    def stop(self) -> None:
        """Stops `run` as a signal does."""
        self._stopping.set()

    def _run(self, sweep_ids: tuple[str, ...]) -> bool:
        answered = self._clock()
        while not self._stopping.is_set():
            try:
                if self.round(sweep_ids):
                    return True
                answered = self._clock()
            except StoreUnavailable as error:
                if self._clock() - answered > self._outage_seconds:
                    raise
                logger.warning("%s; trying again", error)
            self._executor.wait(self._poll_seconds)
        return False

    def round(self, sweep_ids: tuple[str, ...] = ()) -> bool:
        """Reads the status once and does what is due; returns whether these sweeps are at rest."""
        gone = self._executor.gone()
        snapshot = self._store.snapshot(sweep_ids or None, max_unstarted=self._could_start())
        crew = self._crew(snapshot, gone)
        growing = self._growing(snapshot)
        self._apply_all(
            action
            for action in plan.plan(snapshot, crew)
            # Policies may yet add trials to a sweep whose trials are all final.
            if not (isinstance(action, plan.FinishSweep) and action.sweep_id in growing)
        )
        self._observe(sweep_ids)
        self._show_presence(snapshot)
        if not sweep_ids or any(sweep.state not in AT_REST for sweep in snapshot.sweeps):
            return False
        self._dismiss_latecomers()
        if self._executor.busy():
            return False
        self._observe(sweep_ids, at_last=True)
        return True

    def _could_start(self) -> int:
        """An upper bound of the trials to read: those just launched may still be waiting."""
        free = self._executor.free().values()
        return sum(max(0, count) for count in free) + len(self._executor.busy())

    def _growing(self, snapshot: Snapshot) -> frozenset[str]:
        """Applies the policies to all active sweeps; returns those that may get more trials."""
        if self._policies is None:
            return frozenset()
        free = self._executor.free().get(WorkKind.TRAIN, 0)
        return frozenset(
            sweep.sweep_id
            for sweep in snapshot.sweeps
            if sweep.state is SweepState.ACTIVE
            and sweep.is_expanded
            and self._policies.apply(sweep.sweep_id, max(0, free - sweep.queued))
        )

    def _show_presence(self, snapshot: Snapshot) -> None:
        if self._clock() < self._next_presence:
            return
        self._next_presence = self._clock() + PRESENCE_SECONDS
        active = [sweep for sweep in snapshot.sweeps if sweep.state is SweepState.ACTIVE]
        facts = {
            "waiting": {
                WorkKind.TRAIN.value: sum(sweep.queued for sweep in active),
                WorkKind.EVAL.value: sum(sweep.trained for sweep in active),
            },
            "free": {kind.value: count for kind, count in self._executor.free().items()},
            "busy": dict(self._executor.busy()),
            "sweeps": len(active),
            **self._executor.facts(),
        }
        self._store.announce(self._name, "coordinator", facts)
        self._store.end_unwanted()

    def _dismiss_latecomers(self) -> None:
        """Ends workers that wait to start a trial which another coordinator's worker finished."""
        for worker, digest in list(self._executor.busy().items()):
            holder = self._store.trial(digest).worker
            if holder is None or name_of(holder) != worker:
                self._executor.kill(worker)

    def _crew(self, snapshot: Snapshot, gone: Mapping[str, plan.Death]) -> plan.Crew:
        busy = dict(self._executor.busy())
        foreign = (
            trial.worker
            for trial in snapshot.trials
            if trial.state.is_held and trial.worker and name_of(trial.worker) not in {*busy, *gone}
        )
        orphans = frozenset(worker for worker in foreign if is_dead_here(worker))
        leases = [trial.lease for trial in snapshot.trials if trial.lease is not None]
        overdue = self._leases.overdue(leases)
        return plan.Crew(self._executor.free(), busy, gone, orphans, overdue)

    def _apply_all(self, actions: Iterable[plan.Action]) -> None:
        full: set[WorkKind] = set()
        for action in actions:
            # A trial that does not fit now keeps its place in the queue: the trials behind it do
            # not start before it, and ending trials make room for it.
            if isinstance(action, plan.Launch) and action.kind in full:
                continue
            try:
                if not self._apply(action) and isinstance(action, plan.Launch):
                    full.add(action.kind)
            except StoreUnavailable:
                raise
            except SpecError as error:  # the sweep or trial has changed since the snapshot
                logger.warning("%s", error)

    def _apply(self, action: plan.Action) -> bool:
        """Does the action; returns False if a launch found no room."""
        match action:
            case plan.Lose(worker_id, reason, charge):
                self._store.lose(worker_id, reason, charge)
            case plan.Expire(overdue):
                self._store.expire(overdue)
            case plan.StopWorker(worker):
                self._executor.kill(worker)
            case plan.Fail(digest, attempt, reason):
                self._store.fail(digest, attempt, reason)
            case plan.PauseSweep(sweep_id, note):
                logger.error("sweep %s is %s", sweep_id, note)
                self._store.pause(sweep_id, note=note)
            case plan.StopTrial(digest, reason):
                self._store.order(digest, Order.STOP, reason)
            case plan.StopSweep(sweep_id, note):
                logger.warning("sweep %s: %s", sweep_id, note)
                self._store.stop(sweep_id, note=note)
            case plan.Launch(kind, digest, sweep_id):
                try:
                    return self._executor.launch(kind, digest)
                except CannotRun as error:
                    return self._apply(plan.PauseSweep(sweep_id, f"paused: {error}"))
            case plan.FinishSweep(sweep_id):
                self._store.finish_sweep(sweep_id)
        return True

    def _observe(self, sweep_ids: tuple[str, ...], at_last: bool = False) -> None:
        started = self._clock()
        if self._observer is None or (started < self._next_look and not at_last):
            return
        self._observer([trial for sweep_id in sweep_ids for trial in self._store.trials(sweep_id)])
        ended = self._clock()
        self._next_look = ended + (ended - started) / OBSERVED_SHARE

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stopping.is_set():
            raise KeyboardInterrupt
        logger.warning("%s: waiting for workers to write checkpoints", signal.Signals(number).name)
        self._stopping.set()
