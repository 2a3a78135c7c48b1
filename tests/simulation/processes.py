"""The simulated processes: workers, and coordinators with their executors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evenload.pipeline.errors import LeaseLost, StoreUnavailable
from evenload.pipeline.records.fence import Fence
from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.sinks import SinkGroup
from evenload.pipeline.states import Claim, Command, TrialState, WorkKind
from evenload.pipeline.sweep import coordinator as coordinator_module
from evenload.pipeline.sweep.coordinator import Coordinator
from evenload.pipeline.sweep.plan import Death
from evenload.workers.actors.actor import Actor, Verdict
from evenload.workers.actors.heartbeat import Heartbeat
from tests.simulation.world import BEAT, CHECKPOINT_EVERY, STEPS, Host, Network, Violation, World

Steps = Generator[None, None, None]


class Worker:
    """A process that works on one trial. Every `yield` lets other things happen in between."""

    def __init__(self, world: World, host: Host, name: str, kind: WorkKind, digest: str) -> None:
        self.world, self.host, self.name, self.kind, self.digest = world, host, name, kind, digest
        self.id = f"{name}@{host.name}"
        self.is_alive, self.has_returned, self.frozen_until = True, False, 0.0
        self.beats: Heartbeat | None = None
        self.must_stop = False
        self._actor = SimpleNamespace(
            _store=Network(world, host),
            _worker_id=self.id,
            _settings=world.settings,
            kind=kind,
            _preempted=False,
            _heartbeat=None,
        )
        self._steps = self._work()
        world.at(world.random.uniform(0, 1), self._step)

    def request_stop(self) -> None:
        self.must_stop = True
        if self.beats is not None:
            self.beats.request_stop()

    def kill(self) -> None:
        self.is_alive = False
        self.world.dead.add(self.id)

    @property
    def _rests_until(self) -> float:
        return max(self.frozen_until, self.host.awake_from)

    def _step(self) -> None:
        if not self.is_alive:
            return
        if self.world.now < self._rests_until:
            self.world.at(self._rests_until - self.world.now, self._step)
            return
        try:
            next(self._steps)
        except (StopIteration, LeaseLost):
            self.has_returned, self.beats = True, None
            return
        self.world.at(self.world.random.uniform(0.5, 7.0), self._step)

    def _beat(self) -> None:
        """The thread of the heartbeat."""
        beats = self.beats
        if beats is None or not self.is_alive:
            return
        if self.world.now < self._rests_until:
            self.world.at(self._rests_until - self.world.now, self._beat)
            return
        try:
            beats._beat()
        except StoreUnavailable:
            pass
        except LeaseLost as lost:
            beats._error = lost
            return
        self.world.at(BEAT, self._beat)

    def _until_answered(self, call: Callable[[], Any]) -> Generator[None, None, Any]:
        while True:
            try:
                return call()
            except StoreUnavailable:
                yield

    def _work(self) -> Steps:
        claim = yield from self._until_answered(lambda: Actor._claim(self._actor, self.digest))
        if claim is None:
            return
        self.world.note(f"{self.id} has attempt {claim.attempt} of {self.digest}")
        beats = Heartbeat(self._actor._store, claim, self.world.settings, lambda: self.world.now)
        self.beats = self._actor._heartbeat = beats
        if self.must_stop:
            beats.request_stop()
        self._beat()
        yield
        yield from self._certain()
        fence = Fence(self._folder, claim.attempt, self.id, beats.confirm)
        fence.take()
        self.world.owners[self.digest] = claim.attempt
        yield
        verdict = yield from self._compute(claim, fence)
        self.world.note(f"{self.id} ends {self.digest} as {verdict.state}")
        yield from self._until_answered(lambda: Actor._write(self._actor, claim, verdict))
        self.beats = None

    @property
    def _folder(self) -> Path:
        return self.world.settings.trial_dir(self.digest)

    def _certain(self) -> Steps:
        """Waits as `Heartbeat.confirm` does, but lets time pass.  Raises: LeaseLost"""
        beats = self.beats
        assert beats is not None
        while not (beats._error or beats._is_certain()):
            if beats._stop_requested.is_set() and beats._renewed_at > -math.inf:
                break
            yield
        beats.confirm()

    def _compute(self, claim: Claim, fence: Fence) -> Generator[None, None, Verdict]:
        assert self.beats is not None
        luck = self.world.random.random() if self.world.is_rough else 1.0
        if luck < 0.03:
            return Verdict(TrialState.FAILED, {}, error="OSError: disk full", may_pass=True)
        if luck < 0.04:
            return Verdict(TrialState.FAILED, {}, error="FloatingPointError: nan")
        if self.kind is WorkKind.EVAL:
            yield
            yield from self._certain()
            return Verdict(TrialState.COMPLETED, {"val_loss": 1.0})
        sink = Records(self, claim)
        group = SinkGroup([sink])
        yield from self._certain()
        group.start(RunIdentity(self.digest, "r", None, claim.attempt, {}, fence=fence))
        for left in self._folder.glob("step-*.pt"):
            json.loads(left.read_text())  # complete
        step = max((int(path.stem[5:]) for path in self._folder.glob("step-*.pt")), default=0)
        path = self._folder / f"step-{step:08d}.pt"
        while step < STEPS:
            step += 1
            yield
            yield from self._certain()
            group.log_steps([step])  # type: ignore[list-item]
            self._raise_if_counted(group)
            command = Command.STOP if self.must_stop else self.beats._command
            if step % CHECKPOINT_EVERY and step < STEPS and command is Command.CONTINUE:
                continue
            path = self._folder / f"step-{step:08d}.pt"
            with fence.staged(path) as staging:
                staging.write_text(json.dumps(step))
                yield  # other processes may go on while this one writes
                if not staging.exists() and self._owns(claim):
                    raise Violation(f"{self.id}: another attempt has swept {staging.name}")
                yield from self._certain()
            if not self._owns(claim):
                raise Violation(f"{self.id} wrote {path.name} after another attempt began")
            if command is not Command.CONTINUE and step < STEPS:
                ending = TrialState.STOPPED if command is Command.END else TrialState.QUEUED
                return Verdict(ending, {}, path.as_uri())
        return Verdict(TrialState.TRAINED, {"steps": float(step)}, path.as_uri())

    @staticmethod
    def _raise_if_counted(group: SinkGroup) -> None:
        """A sink's own error is counted by its group, but a violation must end the run."""
        for sink in group._sinks:
            if isinstance(violation := getattr(sink, "violation", None), Violation):
                raise violation

    def _owns(self, claim: Claim) -> bool:
        """Whether no later attempt has taken the folder."""
        return self.world.owners[self.digest] <= claim.attempt


class Records:
    """A sink with one file that lists the recorded steps, as the shards do."""

    errors = 0
    violation: Violation | None = None

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self._worker, self._claim, self._has_cut = worker, claim, False
        self._path = worker._folder / "records.json"

    def start(self, run: RunIdentity) -> None: ...

    def log_steps(self, steps: list[int]) -> None:
        if not self._worker._owns(self._claim):
            self.violation = Violation(f"{self._worker.id} recorded {steps} after another began")
        found = json.loads(self._path.read_text()) if self._path.exists() else []
        if not self._has_cut:
            found, self._has_cut = [step for step in found if step < steps[0]], True
        self._path.write_text(json.dumps([*found, *steps]))

    def log_eval(self, record: object) -> None: ...

    def checkpoint(self) -> None: ...

    def close(self) -> None: ...


class Executor:
    """Starts workers on the hosts of the world, as Ray does."""

    def __init__(self, world: World, host: Host, name: str) -> None:
        self._world, self._host, self._name = world, host, name
        self.workers: dict[str, Worker] = {}
        self._started = 0

    def launch(self, kind: WorkKind, digest: str) -> bool:
        self._started += 1
        name = f"{self._name}-{self._started}"
        host = self._world.random.choice(self._world.hosts)
        self.workers[name] = Worker(self._world, host, name, kind, digest)
        return True

    def free(self) -> Mapping[WorkKind, int]:
        return dict.fromkeys(WorkKind, 2 - len(self.busy()))

    def busy(self) -> Mapping[str, str]:
        gone = [name for name, worker in self.workers.items() if worker.has_returned]
        for name in gone:
            del self.workers[name]
        return {name: worker.digest for name, worker in self.workers.items()}

    def gone(self) -> Mapping[str, Death]:
        """Also workers that Ray cannot reach, which may still run."""
        found = {}
        for name, worker in list(self.workers.items()):
            rests = worker._rests_until - self._world.now
            is_away = worker.host is not self._host and self._world.is_rough
            seems_lost = is_away and (rests > 30 or self._world.random.random() < 0.01)
            is_lost = not worker.is_alive or seems_lost
            if is_lost and not worker.has_returned:
                found[name] = Death("killed")
                self._world.disturbed.add(worker.id)
                del self.workers[name]
        return found

    def wait(self, seconds: float) -> None: ...

    def kill(self, worker: str) -> None:
        if (ended := self.workers.pop(worker, None)) is not None:
            ended.kill()

    def facts(self) -> Mapping[str, Any]:
        return {"nodes": []}

    def close(self) -> None: ...


class CoordinatorProcess:
    """A coordinator that a fault may kill; another one takes its place."""

    def __init__(self, world: World, host: Host, name: str) -> None:
        self._world, self._host, self._name = world, host, name
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        world, host = self._world, self._host
        self.executor = Executor(world, host, f"{self._name}{self.starts}")
        self.coordinator = Coordinator(
            Network(world, host),  # type: ignore[arg-type]
            self.executor,
            clock=world.monotonic(host),
        )
        world.at(world.random.uniform(0, 2), lambda number=self.starts: self._round(number))

    def crash(self) -> None:
        """Its workers end with it, or notice that and hand their trials back."""
        self._world.note(f"coordinator {self._name} crashes")
        for worker in self.executor.workers.values():
            if self._world.random.random() < 0.5:
                worker.kill()
            else:
                worker.request_stop()
        self.start()

    def _round(self, number: int) -> None:
        if number != self.starts:
            return
        if self._world.now < self._host.awake_from:
            self._world.at(self._host.awake_from - self._world.now, lambda: self._round(number))
            return
        before = coordinator_module.is_dead_here
        coordinator_module.is_dead_here = self._is_dead_here
        try:
            self.coordinator.round()
        except StoreUnavailable:
            pass
        finally:
            coordinator_module.is_dead_here = before
        self._world.at(self._world.random.uniform(2.0, 4.0), lambda: self._round(number))

    def _is_dead_here(self, worker_id: str) -> bool:
        return worker_id in self._world.dead and worker_id.endswith(f"@{self._host.name}")
