"""A simulated cluster: workers claim trials, finish them after some time, and sometimes die.

It has its own clock, which `wait` advances without sleeping. The store is real.
"""

from __future__ import annotations

import heapq
import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple

from evenload.pipeline.errors import LeaseLost
from evenload.pipeline.states import Claim, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.plan import Death
from evenload.pipeline.sweep.worker_id import name_of

VERDICT = {WorkKind.TRAIN: TrialState.TRAINED, WorkKind.EVAL: TrialState.COMPLETED}
SECONDS = {WorkKind.TRAIN: (60.0, 180.0), WorkKind.EVAL: (2.0, 10.0)}  # range of working times
EVAL_WORKERS = 0.1  # share of the workers
LEASE_SECONDS = 60.0
# The store uses the real clock, so a simulated lease never expires unless this cluster ends it.
VALID_SECONDS, EXPIRED_SECONDS = 3600.0, -1.0


class Event(NamedTuple):
    at: float
    number: int  # orders events with the same time
    happens: Callable[[], None]


class SimulatedCluster:
    """The workers and the clock, which remain when a coordinator is replaced.

    Args:     death_share: share of attempts whose worker dies halfway
    """

    def __init__(
        self, store: SweepStore, num_workers: int, death_share: float, seed: int = 0
    ) -> None:
        self.now_seconds = 0.0
        self.verdicts: Counter[WorkKind] = Counter()
        self.num_deaths = 0
        self._store = store
        self._num_workers = num_workers
        self._death_share = death_share
        self._random = random.Random(seed)
        self._numbers = count()
        self._place = f"@{socket.gethostname()}:{os.getpid()}"
        self._events: list[Event] = []
        self._working: dict[str, WorkKind] = {}
        self._dead: list[str] = []

    def free(self, kind: WorkKind) -> int:
        slots = self._num_workers
        if kind is WorkKind.EVAL:
            slots = max(1, int(EVAL_WORKERS * slots))
        return slots - sum(working is kind for working in self._working.values())

    def start(self, kind: WorkKind, digest: str) -> str | None:
        """The worker that took the trial, or None if another one has it."""
        name = f"{kind}-{next(self._numbers)}"
        claim = self._store.claim(digest, kind, name + self._place, VALID_SECONDS)
        if claim is None:
            return None
        self._working[name] = kind
        seconds = self._random.uniform(*SECONDS[kind])
        if self._random.random() < self._death_share:
            self._after(seconds / 2, lambda: self._die(claim))
            self._after(seconds / 2 + LEASE_SECONDS, lambda: self._expire(claim))
        else:
            self._after(seconds, lambda: self._finish(claim))
        return name

    def is_working(self, worker: str) -> bool:
        return worker in self._working

    def newly_dead(self) -> list[str]:
        dead, self._dead = self._dead, []
        return dead

    def pass_time(self, seconds: float) -> None:
        self.now_seconds += seconds
        while self._events and self._events[0].at <= self.now_seconds:
            heapq.heappop(self._events).happens()

    def _after(self, seconds: float, happens: Callable[[], None]) -> None:
        event = Event(self.now_seconds + seconds, next(self._numbers), happens)
        heapq.heappush(self._events, event)

    def _finish(self, claim: Claim) -> None:
        del self._working[name_of(claim.worker)]
        self._store.finish(claim, VERDICT[claim.kind], {claim.kind: 1.0})
        self.verdicts[claim.kind] += 1

    def _die(self, claim: Claim) -> None:
        name = name_of(claim.worker)
        del self._working[name]
        self._dead.append(name)
        self.num_deaths += 1

    def _expire(self, claim: Claim) -> None:
        """Ends the lease of a dead worker, if no coordinator noticed the death before."""
        with suppress(LeaseLost):
            self._store.heartbeat(claim, None, EXPIRED_SECONDS)


class SimulatedExecutor:
    """The executor of one coordinator, which knows only the workers that it launched."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._launched: dict[str, str] = {}

    def launch(self, kind: WorkKind, digest: str) -> bool:
        worker = self._cluster.start(kind, digest)
        if worker is not None:
            self._launched[worker] = digest
        return True

    def free(self) -> Mapping[WorkKind, int]:
        return {kind: self._cluster.free(kind) for kind in WorkKind}

    def busy(self) -> Mapping[str, str]:
        return self._launched

    def gone(self) -> Mapping[str, Death]:
        dead = [worker for worker in self._cluster.newly_dead() if self._launched.pop(worker, None)]
        return {worker: Death("killed") for worker in dead}

    def wait(self, seconds: float) -> None:
        self._cluster.pass_time(seconds)
        self._launched = {
            worker: digest
            for worker, digest in self._launched.items()
            if self._cluster.is_working(worker) or worker in self._cluster._dead
        }

    def kill(self, worker: str) -> None:
        self._launched.pop(worker, None)

    def facts(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None: ...
