"""Hosts train and eval actors on Ray, which executes only: what must last is in the store."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple, Self

import ray
from pydantic import ValidationError
from ray.exceptions import RayError

from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.plan import Death
from evenload.pipeline.sweep.worker_id import name_of
from evenload.workers.actors.actor import SinkFactory
from evenload.workers.actors.data_parallel import GroupActor
from evenload.workers.actors.eval_actor import EvalActor
from evenload.workers.actors.ray_cluster import connect, draining_nodes, nodes, num_slots
from evenload.workers.actors.stacked_actor import StackedActor

logger = logging.getLogger(__name__)

ACTORS = {WorkKind.TRAIN: StackedActor, WorkKind.EVAL: EvalActor}
# Of its device: beside a training there is room for an evaluation, but not for another training.
SHARE = {WorkKind.TRAIN: 0.9, WorkKind.EVAL: 0.1}
MAX_STILLBORN = 3
IDLE_SECONDS = 20.0


class Need(NamedTuple):
    """What an actor must have to serve a trial."""

    kind: WorkKind
    device: str
    threads: int
    workers: int = 1  # processes that share the trial


@dataclass
class _Worker:
    """An actor, and what it was launched for last."""

    actor: Any
    need: Need
    node_id: Any  # the reference to what says it
    digest: str | None = None
    returned: Any = None  # the reference to what `work` will return
    idle_since: float = 0.0  # of the monotonic clock; without a meaning while it has a digest
    is_leaving: bool = False  # told to give its trial back, as its node is being taken away


class RayExecutor:
    """Two pools of long-lived actors: importing torch for every trial would cost more than some.

    An actor serves trials of the same need; one for another need takes the place of an idle one.
    Actors are never restarted and calls never retried by Ray: a lost attempt is the store's affair.

    Args:     sink_factory: importable on the workers
              train_slots: workers that train at once; None is one a GPU, or one a core without
                  GPUs, where a worker of several threads takes as many, as the cluster grows and
                  shrinks
              address: of a running cluster; None starts one on this machine
              grace_seconds: how long `close` waits for checkpoints
    """

    def __init__(
        self,
        settings: Settings,
        sink_factory: SinkFactory,
        train_slots: int | None = None,
        eval_slots: int | None = None,
        *,
        address: str | None = None,
        grace_seconds: float = 120.0,
    ) -> None:
        # Workers may live in another working directory.
        self._settings = settings.model_copy(update={"home": settings.root})
        self._sink_factory = sink_factory
        self._grace_seconds = grace_seconds
        self._store = SweepStore(settings.store_url)
        self._names = (f"{secrets.token_hex(3)}-{number}" for number in count(1))
        self._workers: dict[str, _Worker] = {}
        self._stillborn = 0  # workers in a row that died before they claimed a trial
        self._owns_cluster = connect(address)
        self._is_local = address is None
        self._train_slots = train_slots or settings.train_slots
        self._eval_slots = eval_slots or settings.eval_slots

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def launch(self, kind: WorkKind, digest: str) -> bool:
        need = self._need(kind, digest)
        taken = self._taken(kind)
        if taken and taken + self._size(need) > self._slots(kind):
            return False  # alone, a trial may exceed the machine
        worker = self._worker_for(need)
        worker.digest = digest
        worker.returned = worker.actor.work.remote(digest)
        return True

    def free(self) -> Mapping[WorkKind, int]:
        return {kind: self._slots(kind) - self._taken(kind) for kind in ACTORS}

    def busy(self) -> Mapping[str, str]:
        return {name: worker.digest for name, worker in self._workers.items() if worker.digest}

    def gone(self) -> Mapping[str, Death]:
        """Raises: RuntimeError: workers die before they take a trial, one after the other"""
        gone = {}
        for name in self._returned():
            if death := self._death_of(name):
                gone[name] = death
        return gone

    def facts(self) -> Mapping[str, Any]:
        return {"nodes": nodes(), "slots": {kind.value: self._slots(kind) for kind in ACTORS}}

    def wait(self, seconds: float) -> None:
        if not self._is_local:
            self._let_idle_workers_go()
            self._leave_draining_nodes()
        pending = [worker.returned for worker in self._workers.values() if worker.digest]
        if pending:
            ray.wait(pending, timeout=seconds)
        else:
            time.sleep(seconds)

    def kill(self, worker: str) -> None:
        ray.kill(self._workers.pop(worker).actor)

    def close(self) -> None:
        """Returns once every worker gave its trial back or the grace is over. Safe to repeat."""
        busy = [worker for worker in self._workers.values() if worker.digest]
        try:
            for worker in busy:
                worker.actor.request_stop.remote()
            if busy:
                pending = [worker.returned for worker in busy]
                ray.wait(pending, num_returns=len(pending), timeout=self._grace_seconds)
        finally:
            for name in list(self._workers):
                self.kill(name)
            self._store.close()
            if self._owns_cluster:
                self._owns_cluster = False
                ray.shutdown()

    def _slots(self, kind: WorkKind) -> int:
        if kind is WorkKind.EVAL:
            return self._eval_slots
        return self._train_slots or num_slots()

    def _taken(self, kind: WorkKind) -> int:
        busy = (worker.need for worker in self._workers.values() if worker.digest)
        return sum(self._size(need) for need in busy if need.kind is kind)

    def _size(self, need: Need) -> int:
        """Slots that it takes; threads that share a core only wait for each other."""
        slots_are_cores = self._train_slots is None and need.device == "cpu"
        is_counted = need.kind is WorkKind.TRAIN and slots_are_cores
        return need.workers * (need.threads if is_counted else 1)

    def _let_idle_workers_go(self) -> None:
        """A cluster is shared: another coordinator may wait for what an idle worker reserves."""
        overdue = time.monotonic() - IDLE_SECONDS
        for name, worker in list(self._workers.items()):
            if worker.digest is None and worker.idle_since < overdue:
                self.kill(name)

    def _leave_draining_nodes(self) -> None:
        """Workers on nodes that will be taken away give their trials back while they can."""
        draining = draining_nodes()
        if not draining:
            return
        for name, worker in list(self._workers.items()):
            ready, _ = ray.wait([worker.node_id], timeout=0)
            if worker.is_leaving or not ready or ray.get(worker.node_id) not in draining:
                continue
            logger.warning("%s: its node is being taken away", name)
            worker.is_leaving = True
            if worker.digest is None:
                self.kill(name)
            else:
                worker.actor.request_stop.remote(preempted=True)

    def _returned(self) -> list[str]:
        names = {worker.returned: name for name, worker in self._workers.items() if worker.digest}
        if not names:
            return []
        ready, _ = ray.wait(list(names), num_returns=len(names), timeout=0)
        return [names[reference] for reference in ready]

    def _death_of(self, name: str) -> Death | None:
        """Frees a worker that returned; where it did not end well, drops it and says why."""
        worker = self._workers[name]
        try:
            left_in = ray.get(worker.returned)
        except RayError as error:
            # One that is unavailable may still run. Killing it is tried; its attempt number keeps
            # it from writing to the store where that does not reach it.
            self.kill(name)
            logger.warning("%s: %s", name, error)
            self._stop_where_no_worker_lives(name, worker, error)
            preempted = worker.is_leaving or getattr(error, "preempted", False)
            return Death(f"worker lost: {_first_line(error)}", preempted)
        worker.digest, worker.idle_since, self._stillborn = None, time.monotonic(), 0
        if worker.is_leaving or left_in in (TrialState.FAILED, TrialState.QUEUED):
            # A failed kernel leaves a CUDA context that fails every trial after it, and who was
            # told to give its trial back takes no other, also where it finished it instead.
            self.kill(name)
        return None

    def _stop_where_no_worker_lives(self, name: str, worker: _Worker, error: RayError) -> None:
        """No trial counts a worker that died before it claimed one, so somebody else must."""
        assert worker.digest is not None
        holder = self._store.trial(worker.digest).worker
        if holder is not None and name_of(holder) == name:
            self._stillborn = 0
            return
        self._stillborn += 1
        if self._stillborn >= MAX_STILLBORN or getattr(error, "actor_init_failed", False):
            raise RuntimeError(f"workers die before they take a trial: {error}") from error

    def _need(self, kind: WorkKind, digest: str) -> Need:
        try:
            runtime = TrialSpec.model_validate(self._store.trial(digest).spec).runtime
        except ValidationError:  # of another version: the worker says so, and the trial fails
            return Need(kind, "cpu", threads=1)
        workers = runtime.workers if kind is WorkKind.TRAIN else 1
        return Need(kind, runtime.device, runtime.threads, workers)

    def _worker_for(self, need: Need) -> _Worker:
        idle = [name for name in self._of_kind(need.kind) if not self._workers[name].digest]
        fitting = (name for name in idle if self._workers[name].need == need)
        name = next(fitting, None)
        if name is not None:
            return self._workers[name]
        if idle and len(list(self._of_kind(need.kind))) >= self._slots(need.kind):
            self.kill(idle[0])
        return self._hire(need)

    def _of_kind(self, kind: WorkKind) -> Iterator[str]:
        return (name for name, worker in self._workers.items() if worker.need.kind is kind)

    def _hire(self, need: Need) -> _Worker:
        name = f"{need.kind}-{next(self._names)}"
        told = (name, self._settings, self._sink_factory)
        options = self._options(need)
        if need.workers > 1:
            # The ranks hold the resources; who starts them only waits.
            resources = {"CPU": options.pop("num_cpus"), "GPU": options.pop("num_gpus")}
            hosted = ray.remote(GroupActor).options(name=name, num_cpus=0, **options)
            actor = hosted.remote(*told, resources=resources, heeds_sigterm=True)
        else:
            hosted = ray.remote(ACTORS[need.kind]).options(name=name, **options)
            shares = {"slots": max(1, self._slots(need.kind) // self._size(need))}
            more = shares if need.kind is WorkKind.TRAIN else {}
            actor = hosted.remote(*told, heeds_sigterm=True, **more)
        worker = _Worker(actor, need, node_id=actor.__ray_call__.remote(_node_id))
        self._workers[name] = worker
        return worker

    def _options(self, need: Need) -> dict[str, Any]:
        threads = str(need.threads)
        # Read by libraries as they are imported, so it must be there before the actor starts.
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        on_gpu = need.device == "cuda"
        if not on_gpu:
            environment["CUDA_VISIBLE_DEVICES"] = ""  # num_gpus=0 alone hides no GPU (ray #54928)
        share = SHARE[need.kind]
        return {
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 2,  # request_stop must get through while work runs
            # On this machine alone the slots are the limit, also where they exceed the cores.
            "num_cpus": 0 if self._is_local else share * need.threads,
            "num_gpus": share if on_gpu else 0,
            "runtime_env": {"env_vars": environment},
        }


def _first_line(error: RayError) -> str:
    """What an actor raised, without Ray's account of where."""
    return str(getattr(error, "cause", None) or error).strip().splitlines()[0]


def _node_id(_: object) -> str:
    """Where the actor lives, asked within it."""
    return str(ray.get_runtime_context().get_node_id())
