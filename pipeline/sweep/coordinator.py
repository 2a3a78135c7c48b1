"""Runs sweeps: reads where they stand, lets `plan` decide, applies it. Holds no state of its own.

It can be killed at any line: whoever runs the same sweep next reads the same truth from SQL.
"""

from __future__ import annotations

import logging
import math
import secrets
import signal
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Protocol

from evenload.pipeline.errors import SpecError, StoreUnavailable
from evenload.pipeline.states import Snapshot, SweepState, TrialRecord, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.plan import (
    Action,
    Crew,
    Death,
    Expire,
    Fail,
    FinishSweep,
    Launch,
    Lose,
    PauseSweep,
    StopWorker,
    plan,
)
from evenload.pipeline.sweep.worker_id import is_dead_here, name_of, worker_id

logger = logging.getLogger(__name__)

Observer = Callable[[Sequence[TrialRecord]], None]
OVER = (SweepState.FINISHED, SweepState.CANCELLED)
PRESENCE_SECONDS = 10.0
OBSERVED_SHARE = 0.1  # of the time at most goes into reading all trials for the observer


class Executor(Protocol):
    """Has workers that claim trials, and says how they are. Workers go by name."""

    def launch(self, kind: WorkKind, digest: str) -> bool:
        """Lets a free worker claim this trial and work on it. Returns at once.

        Returns:  False where the trial needs more room than there is now
        """

    def free(self) -> Mapping[WorkKind, int]:
        """How many more launches of each kind can be served now."""

    def busy(self) -> Mapping[str, str]:
        """Workers that were launched and have not returned, with the digest."""

    def gone(self) -> Mapping[str, Death]:
        """Workers that died since the last call. Each is told once."""

    def wait(self, seconds: float) -> None:
        """Returns after this time, or sooner where a worker returned or died."""

    def kill(self, worker: str) -> None: ...

    def facts(self) -> Mapping[str, Any]:
        """What people want to see of it: nodes and workers, as JSON can hold it."""

    def close(self) -> None:
        """Tells workers to stop, waits until they gave their trials back, ends them."""


class Policies(Protocol):
    """What a sweep needs beside having its trials run: further ones, or some of them ended."""

    def apply(self, sweep_id: str, room: int) -> bool:
        """Looks after an active sweep; returns whether it may still grow.

        Called in every round, so it must be quick where there is nothing to do.

        Args:     room: how many more trials of it could start now
        """


class Coordinator:
    """Brings sweeps to their end with an executor's workers.

    Args:     observer: gets the trials of the sweep after rounds, and when it is over
              policies: looks after sweeps that grow or stop trials
              outage_seconds: how long the database may be away before `run` gives up
              recovery_seconds: no lease expires for this long after the database came back, as no
                  worker could renew one while it was away
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
        recovery_seconds: float = 20.0,
    ) -> None:
        self._store = store
        self._executor = executor
        self._observer = observer
        self._policies = policies
        self._poll_seconds = poll_seconds
        self._outage_seconds = outage_seconds
        self._recovery_seconds = recovery_seconds
        self._recovers_until = self._next_presence = self._next_look = -math.inf
        self._name = worker_id(f"coordinator-{secrets.token_hex(3)}")
        self._stopping = threading.Event()

    def run(self, *sweep_ids: str) -> bool:
        """Works until these sweeps are over, or on all sweeps until told to stop.

        SIGINT and SIGTERM tell it to stop: workers write checkpoints and give their trials back. A
        second signal does not wait for them.

        Returns:  whether the sweeps are over; False: it was told to stop. The executor is closed.
        Raises:   SpecError: an unknown sweep; StoreUnavailable: for longer than `outage_seconds`
        """
        with self._stopping_on_signals():
            try:
                for sweep_id in sweep_ids:
                    self._store.sweep(sweep_id)
                return self._run(sweep_ids)
            finally:
                self._executor.close()
                with suppress(StoreUnavailable):
                    self._store.withdraw(self._name)

    def stop(self) -> None:
        """Ends `run` as a signal does."""
        self._stopping.set()

    def _run(self, sweep_ids: tuple[str, ...]) -> bool:
        answered = time.monotonic()
        while not self._stopping.is_set():
            try:
                if self.round(sweep_ids):
                    return True
                answered = time.monotonic()
            except StoreUnavailable as error:
                if time.monotonic() - answered > self._outage_seconds:
                    raise
                logger.warning("%s; trying again", error)
                self._recovers_until = time.monotonic() + self._recovery_seconds
            self._executor.wait(self._poll_seconds)
        return False

    def round(self, sweep_ids: tuple[str, ...] = ()) -> bool:
        """Looks once and does what is to do; returns whether these sweeps are over."""
        gone = self._executor.gone()
        snapshot = self._store.snapshot(sweep_ids or None, max_unstarted=self._could_start())
        crew = self._crew(snapshot, gone)
        growing = self._growing(snapshot)
        actions = plan(snapshot, snapshot.taken_at, crew)
        self._apply_all(action for action in actions if not self._must_wait(action, growing))
        self._observe(sweep_ids)
        self._show_presence(snapshot)
        if not sweep_ids or any(sweep.state not in OVER for sweep in snapshot.sweeps):
            return False
        self._dismiss_latecomers(crew.busy)
        if self._executor.busy():
            return False
        self._observe(sweep_ids, at_last=True)
        return True

    def _could_start(self) -> int:
        """Trials that more than suffice for every free worker: those just launched still wait."""
        free = self._executor.free().values()
        return sum(max(0, count) for count in free) + len(self._executor.busy())

    def _must_wait(self, action: Action, growing: Container[str]) -> bool:
        match action:
            case Expire():
                return time.monotonic() < self._recovers_until
            case FinishSweep(sweep_id):
                return sweep_id in growing
        return False

    def _growing(self, snapshot: Snapshot) -> frozenset[str]:
        """Lets the policies look at every active sweep; those that may still get more trials."""
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
        if time.monotonic() < self._next_presence:
            return
        self._next_presence = time.monotonic() + PRESENCE_SECONDS
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

    def _dismiss_latecomers(self, busy: Mapping[str, str]) -> None:
        """Ends workers that still wait to start on a trial that another coordinator's finished."""
        for worker, digest in busy.items():
            holder = self._store.trial(digest).worker
            if holder is None or name_of(holder) != worker:
                self._executor.kill(worker)

    def _crew(self, snapshot: Snapshot, gone: Mapping[str, Death]) -> Crew:
        busy = dict(self._executor.busy())
        strangers = (
            trial.worker
            for trial in snapshot.trials
            if trial.state.is_held and trial.worker and name_of(trial.worker) not in {*busy, *gone}
        )
        orphans = frozenset(worker for worker in strangers if is_dead_here(worker))
        return Crew(free=self._executor.free(), busy=busy, gone=gone, orphans=orphans)

    def _apply_all(self, actions: Iterable[Action]) -> None:
        full: set[WorkKind] = set()
        for action in actions:
            # Who needs more room than there is now keeps its place: what ends makes the room, and
            # nothing behind it takes it away.
            if isinstance(action, Launch) and action.kind in full:
                continue
            try:
                if not self._apply(action) and isinstance(action, Launch):
                    full.add(action.kind)
            except StoreUnavailable:
                raise
            except SpecError as error:  # somebody changed it since the snapshot
                logger.warning("%s", error)

    def _apply(self, action: Action) -> bool:
        """False where a launch found no room."""
        match action:
            case Lose(worker_id, reason, charge):
                self._store.lose(worker_id, reason, charge)
            case Expire():
                self._store.expire()
            case StopWorker(worker):
                self._executor.kill(worker)
            case Fail(digest, attempt, reason):
                self._store.fail(digest, attempt, reason)
            case PauseSweep(sweep_id, note):
                logger.error("sweep %s is %s", sweep_id, note)
                self._store.pause(sweep_id, note=note)
            case Launch(kind, digest):
                return self._executor.launch(kind, digest)
            case FinishSweep(sweep_id):
                self._store.finish_sweep(sweep_id)
        return True

    def _observe(self, sweep_ids: tuple[str, ...], at_last: bool = False) -> None:
        started = time.monotonic()
        if self._observer is None or (started < self._next_look and not at_last):
            return
        self._observer([trial for sweep_id in sweep_ids for trial in self._store.trials(sweep_id)])
        ended = time.monotonic()
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
