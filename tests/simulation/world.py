"""A world in which time, the network and processes are simulated, and the store and rules are real.

One scheduler runs every step of every process in an order that a seed decides: coordinators (the
real `Coordinator` with `plan` and `LeaseWatch`), workers (the real claim, heartbeat, fence and
verdict, with files in place of a model), users and faults. A step is one call of the store or one
write. After each step `invariants.check` looks at the database and at the folders.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import StaticPool, create_engine, event

from evenload.pipeline.errors import SpecError, StoreUnavailable
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import TrialState
from evenload.pipeline.store import engine as engine_module
from evenload.pipeline.store.models import Base
from evenload.pipeline.store.sweep_store import SweepStore

LEASE, BEAT, STEPS, CHECKPOINT_EVERY = 20.0, 4.0, 8, 3
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
BASE: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "train": {"steps": STEPS, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign", "step_size": 0.01},
}


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass
class Host:
    """A machine, whose monotonic clock stands still while it is suspended."""

    name: str
    slept: float = 0.0
    awake_from: float = 0.0
    cut_off_until: float = 0.0


@dataclass
class Network:
    """The store as one process reaches it: calls or answers may be lost, late or doubled."""

    world: World
    host: Host
    late: list[Callable[[], object]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.world.store, name)

        def call(*arguments: Any, **options: Any) -> Any:
            world = self.world
            if world.now < self.host.cut_off_until:
                raise StoreUnavailable("cut off")
            fate = world.random.random() if world.is_rough else 1.0
            if fate < 0.01:
                raise StoreUnavailable("the call was lost")
            answer = method(*arguments, **options)
            if fate < 0.02:
                raise StoreUnavailable("the answer was lost")
            if fate < 0.03 and name not in ("claim", "snapshot", "announce"):
                world.at(
                    world.random.uniform(0, 2 * LEASE), lambda: repeat(method, arguments, options)
                )
            return answer

        return call


def repeat(method: Callable[..., Any], arguments: Any, options: Any) -> None:
    """Delivers a call once more, late, as a network that repeats packets would."""
    from evenload.pipeline.errors import LeaseLost

    with suppress(LeaseLost, SpecError):
        method(*arguments, **options)


CLOCK: list[World] = []  # the world whose clock the store in memory reads


@cache
def _store_in_memory() -> SweepStore:
    """One for all worlds, because SQLAlchemy compiles each statement once per engine."""

    def set_clock(connection: Any, _: object) -> None:
        def strftime(_format: str, _now: str, offset: str = "0 seconds") -> str:
            return CLOCK[0].read_clock(float(offset.split()[0]))

        connection.create_function("strftime", -1, strftime)

    engine = create_engine("sqlite://", poolclass=StaticPool)
    event.listen(engine, "connect", engine_module._set_up_sqlite)
    event.listen(engine, "begin", engine_module._begin_sqlite)
    event.listen(engine, "connect", set_clock)
    Base.metadata.create_all(engine)
    store = SweepStore("sqlite:///only-the-memory-below-is-used")
    store._engine, store._is_checked = engine, True
    return store


def emptied_store() -> SweepStore:
    """The store in memory, whose clock jumps with that of the newest world."""
    store = _store_in_memory()
    with store._transaction(writes=True) as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    return store


class World:
    """Args: store: an empty store on PostgreSQL; None: one in memory, whose clock can jump"""

    def __init__(self, seed: int, folder: Path, store: SweepStore | None = None) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.settings = Settings(home=folder, lease_seconds=LEASE, heartbeat_seconds=BEAT)
        self.now = self.database_ahead = 0.0
        self.is_rough = True
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = self.reads = 0
        self.trace: list[str] = []
        self.store = store or emptied_store()
        CLOCK[:] = [self]
        self.hosts = [Host("laptop"), Host("node")][: self.random.choice((1, 2))]
        self.disturbed: set[str] = set()  # workers that may lose a trial to their lease
        self.owners: dict[str, int] = {}  # digest -> the attempt that took the folder last
        self.cancelled: set[str] = set()  # trials that a user cancelled and nobody resumed
        self.by_user = False  # whether this step is a user's
        self.dead: set[str] = set()  # ids of dead workers
        self.sweeps = self._sweeps()

    def read_clock(self, after_seconds: float) -> str:
        self.reads += 1  # two readings differ by a millisecond at least
        seconds = self.now + self.database_ahead + 1e-3 * self.reads + after_seconds
        return f"{EPOCH + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S.%f}"[:-3]

    def _sweeps(self) -> list[tuple[SweepSpec, list[tuple[str, Any]]]]:
        """Two sweeps that share a trial."""
        found = []
        for name, seeds in (("a", [0, 1]), ("b", [1, 2])):
            spec = SweepSpec(name=name, base=BASE, axes={"train.seed": seeds})
            trials = [(f"t{trial.train.seed}", trial) for trial in spec.expand()]
            found.append((spec, trials))
            self.store.add_sweep(spec, trials)
        return found

    def monotonic(self, host: Host) -> Callable[[], float]:
        return lambda: self.now - host.slept

    def at(self, seconds: float, call: Callable[[], None]) -> None:
        """Lets `call` happen after so many seconds."""
        self.count += 1
        tie = (self.random.random(), self.count)
        heapq.heappush(self.events, (self.now + seconds, tie, call))  # type: ignore[misc]

    def step(self) -> bool:
        """Lets the next event happen; False if there is none."""
        if not self.events:
            return False
        due, _, call = heapq.heappop(self.events)
        self.now = max(self.now, due)
        call()
        return True

    @property
    def version(self) -> object:
        """Changes whenever the database does."""
        if self.store._engine.dialect.name != "sqlite":
            return object()
        with self.store._engine.connect() as connection:
            return connection.connection.dbapi_connection.total_changes  # type: ignore[union-attr]

    def note(self, what: str) -> None:
        self.trace.append(f"{self.now:8.2f} {what}")

    def states(self) -> list[TrialState]:
        return [self.store.trial(digest).state for digest in ("t0", "t1", "t2")]
