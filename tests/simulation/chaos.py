"""Users and faults of a simulated world, and its run from a seed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from evenload.pipeline.errors import SpecError
from evenload.pipeline.states import SweepState
from evenload.pipeline.store.sweep_store import SweepStore
from tests.simulation.invariants import Watcher
from tests.simulation.processes import CoordinatorProcess
from tests.simulation.world import LEASE, Violation, World

ROUGH_SECONDS, CALM_SECONDS = 200.0, 2000.0


class Chaos:
    """Does something to the world every few seconds."""

    def __init__(self, world: World, coordinators: list[CoordinatorProcess]) -> None:
        self._world, self._coordinators = world, coordinators
        self._ids = [sweep.sweep_id for sweep in world.store.sweeps()]
        self._next()

    def _next(self) -> None:
        self._world.at(self._world.random.expovariate(1 / 4), self._act)

    def _act(self) -> None:
        if not self._world.is_rough:
            return
        self._next()
        faults: list[Callable[[], None]] = [
            self._crash_worker,
            self._crash_coordinator,
            self._cut_off,
            self._freeze,
            self._suspend,
            self._jump,
        ]
        self._world.random.choice([*[self._user] * 6, *faults])()

    def _user(self) -> None:
        world, store = self._world, self._world.store
        sweep_id = world.random.choice(self._ids)
        digest = world.random.choice(store.trials(sweep_id)).digest
        spec, trials = next(s for s in world.sweeps if s[0].sweep_id() == sweep_id)
        verbs: dict[str, Callable[[], object]] = {
            "pause": lambda: store.pause(sweep_id),
            "resume": lambda: store.resume(sweep_id),
            "pause trial": lambda: store.pause(sweep_id, digest),
            "resume trial": lambda: self._resume(sweep_id, digest),
            "stop trial": lambda: store.stop(sweep_id, digest),
            "cancel trial": lambda: self._cancel(sweep_id, digest),
            "retry": lambda: store.retry_failed(sweep_id),
            "run": lambda: store.add_sweep(spec, trials),
            "add": lambda: store.add_trials(sweep_id, trials[:1]),
            "cancel": lambda: store.cancel(sweep_id) if world.random.random() < 0.2 else None,
            "cancel again": lambda: self._cancel_again(sweep_id),
        }
        name = world.random.choice(sorted(verbs))
        world.note(f"user: {name} {sweep_id} {digest}")
        world.by_user = True
        try:
            verbs[name]()
        except SpecError as refused:
            world.note(f"refused: {refused}")

    def _resume(self, sweep_id: str, digest: str) -> None:
        self._world.store.resume(sweep_id, digest)
        self._world.cancelled.discard(digest)

    def _cancel(self, sweep_id: str, digest: str) -> None:
        if not self._world.store.trial(digest).state.is_held:
            self._world.store.cancel(sweep_id, digest)
            self._world.cancelled.add(digest)

    def _cancel_again(self, sweep_id: str) -> None:
        if self._world.store.sweep(sweep_id).state is SweepState.CANCELLED:
            self._world.store.cancel(sweep_id)

    def _workers(self) -> list[object]:
        return [w for c in self._coordinators for w in c.executor.workers.values() if w.is_alive]

    def _crash_worker(self) -> None:
        if workers := self._workers():
            worker = self._world.random.choice(workers)
            self._world.note(f"{worker.id} crashes")
            self._world.disturbed.add(worker.id)
            worker.kill()

    def _crash_coordinator(self) -> None:
        coordinator = self._world.random.choice(self._coordinators)
        for worker in coordinator.executor.workers.values():
            self._world.disturbed.add(worker.id)
        coordinator.crash()

    def _cut_off(self) -> None:
        host = self._world.random.choice(self._world.hosts)
        host.cut_off_until = self._world.now + self._world.random.uniform(1, 4 * LEASE)
        self._world.note(f"{host.name} is cut off until {host.cut_off_until:.1f}")
        if len(self._coordinators) > 1 or len(self._world.hosts) > 1:
            self._disturb_all_on(host)

    def _freeze(self) -> None:
        if workers := self._workers():
            worker = self._world.random.choice(workers)
            worker.frozen_until = self._world.now + self._world.random.uniform(1, 3 * LEASE)
            self._world.note(f"{worker.id} is frozen until {worker.frozen_until:.1f}")
            self._world.disturbed.add(worker.id)

    def _suspend(self) -> None:
        """Closes a laptop. If everything is on it, nobody may pay for that."""
        host = self._world.random.choice(self._world.hosts)
        if self._world.now < host.awake_from:
            return
        seconds = self._world.random.uniform(1, 5 * LEASE)
        host.slept, host.awake_from = host.slept + seconds, self._world.now + seconds
        self._world.note(f"{host.name} sleeps until {host.awake_from:.1f}")
        if len(self._world.hosts) > 1:
            self._disturb_all_on(host)

    def _jump(self) -> None:
        self._world.database_ahead += self._world.random.uniform(-3600, 3600)
        self._world.note(f"the database's clock jumps to {self._world.database_ahead:+.0f} s")

    def _disturb_all_on(self, host: object) -> None:
        self._world.disturbed |= {w.id for w in self._workers() if w.host is host}


def simulate(seed: int, store: SweepStore | None = None) -> list[str]:
    """Runs the world of a seed and returns what happened.

    Raises:   Violation: with what happened last as a note
    """
    with tempfile.TemporaryDirectory(prefix="evenload-world-", dir=_memory()) as folder:
        world = World(seed, Path(folder), store)
        try:
            _run(world)
        except Exception as error:
            error.add_note("\n".join([f"seed {seed}:", *world.trace[-60:]]))
            raise
        return world.trace


def _run(world: World) -> None:
    coordinators = [CoordinatorProcess(world, host, host.name) for host in world.hosts]
    watcher, chaos = Watcher(world), Chaos(world, coordinators)
    while world.now < ROUGH_SECONDS:
        world.by_user = False
        before = world.version
        world.step()
        if world.version != before:
            watcher.check()
    world.is_rough = False
    world.note("from here on it is calm")
    for sweep in world.store.sweeps():
        if sweep.state is SweepState.PAUSED:
            world.store.resume(sweep.sweep_id)
        for trial in world.store.trials(sweep.sweep_id):
            if trial.ordered == "pause":
                chaos._resume(sweep.sweep_id, trial.digest)
    world.by_user = True
    before: object = None
    while world.version == before or not _is_over(world):
        if world.now > CALM_SECONDS:
            raise Violation(f"after {CALM_SECONDS:g} s the trials are {world.states()}")
        before = world.version
        world.step()
        if world.version != before:
            watcher.check()
            world.by_user = False
            _resume(world)
    watcher.check_end()


def _resume(world: World) -> None:
    """Resumes sweeps that were paused after too many fast failures."""
    for sweep in world.store.sweeps():
        if sweep.state is SweepState.PAUSED:
            world.store.resume(sweep.sweep_id)


def _is_over(world: World) -> bool:
    over = (SweepState.FINISHED, SweepState.CANCELLED)
    return all(sweep.state in over for sweep in world.store.sweeps()) and all(
        state.is_final for state in world.states()
    )


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
