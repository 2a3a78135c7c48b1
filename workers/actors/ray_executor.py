"""Runs train and eval actors on Ray. Ray only executes; all lasting state is in the store."""

import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import ray
from pydantic import ValidationError
from ray.exceptions import RayError

from evenload.pipeline.errors import CannotRun
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.plan import KIND_OF_WAITING, Death
from evenload.pipeline.sweep.worker_id import name_of
from evenload.workers.actors.actor import SinkFactory
from evenload.workers.actors.data_parallel import GroupActor
from evenload.workers.actors.eval_actor import EvalActor
from evenload.workers.actors.ray_cluster import connect, draining_nodes, nodes, num_slots
from evenload.workers.actors.stacked_actor import StackedActor

logger = logging.getLogger(__name__)

ACTORS = {WorkKind.TRAIN: StackedActor, WorkKind.EVAL: EvalActor}
# Share of a device: an evaluation fits beside a training, but a second training does not.
SHARE = {WorkKind.TRAIN: 0.9, WorkKind.EVAL: 0.1}
MAX_EARLY_DEATHS = 3
IDLE_SECONDS = 20.0
NODE_SECONDS = 300.0  # a node that left may come back within this time, as after a restart


class Need(NamedTuple):
    """The resources that an actor needs for a trial."""

    kind: WorkKind
    device: str
    threads: int
    workers: int = 1  # processes that share the trial


@dataclass
class _Worker:
    """An actor and its current trial."""

    actor: Any
    need: Need
    node_id: Any  # Ray reference to the id of its node
    digest: str | None = None
    returned: Any = None  # Ray reference to the result of `work`
    idle_since: float = 0.0  # reading of the monotonic clock; only valid without a digest
    is_leaving: bool = False  # it must release its trial, because its node will be removed


class _Amount(NamedTuple):
    """The most that the cluster has had of a resource lately, and when it had that last."""

    most: float
    at: float  # reading of the monotonic clock


class RayExecutor:
    """Two pools of long-lived actors, because importing torch can take longer than a small trial.

    An actor works on trials with the same need; an actor for another need replaces an idle one.
    Ray never restarts actors or retries calls, because the store handles lost attempts.

    Args:     sink_factory: must be importable on the workers
              train_slots: number of workers that train at once. None: one per GPU of the current
                  cluster; without GPUs one per core, and a worker counts once per thread
              address: address of a running cluster; None starts one on this machine
              grace_seconds: time that `close` waits for checkpoints
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
        # Workers may have another working directory.
        self._settings = settings.model_copy(update={"home": settings.root})
        self._sink_factory = sink_factory
        self._grace_seconds = grace_seconds
        self._store = SweepStore(settings.store_url)
        self._names = (f"{secrets.token_hex(3)}-{number}" for number in count(1))
        self._workers: dict[str, _Worker] = {}
        self._most: dict[str, _Amount] = {}  # by resource
        self._early_deaths = 0  # number of successive workers that died before they had a trial
        self._owns_cluster = connect(address)
        self._is_local = address is None
        self._train_slots = train_slots or settings.train_slots
        self._eval_slots = eval_slots or settings.eval_slots

    def launch(self, kind: WorkKind, digest: str) -> bool:
        need = self._need(kind, digest)
        self._check_possible(need)
        taken = self._taken(kind)
        if taken and taken + self._size(need) > self._slots(kind):
            return False  # a trial may exceed the slots only if no other trial runs
        worker = self._worker_for(need)
        worker.digest = digest
        worker.returned = worker.actor.work.remote(digest)
        return True

    def free(self) -> Mapping[WorkKind, int]:
        return {kind: self._slots(kind) - self._taken(kind) for kind in ACTORS}

    def busy(self) -> Mapping[str, str]:
        return {name: worker.digest for name, worker in self._workers.items() if worker.digest}

    def gone(self) -> Mapping[str, Death]:
        """Raises: RuntimeError: several successive workers died before they took a trial"""
        gone = {}
        for name in self._returned():
            if death := self._death_of(name):
                gone[name] = death
        return gone

    def facts(self) -> Mapping[str, Any]:
        return {"nodes": nodes(), "slots": {kind.value: self._slots(kind) for kind in ACTORS}}

    def wait(self, seconds: float) -> None:
        if not self._is_local:
            self._kill_idle_workers()
            self._drop_impossible()
            self._leave_draining_nodes()
        pending = [worker.returned for worker in self._workers.values() if worker.digest]
        if pending:
            ray.wait(pending, timeout=seconds)
        else:
            time.sleep(seconds)

    def kill(self, worker: str) -> None:
        if (ended := self._workers.pop(worker, None)) is not None:
            ray.kill(ended.actor)

    def close(self) -> None:
        """Returns when every worker has released its trial or the grace is over. Idempotent."""
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

    def _check_possible(self, need: Need, seen: Mapping[str, float] | None = None) -> None:
        """Raises: CannotRun: it needs more cores or GPUs than all nodes have together"""
        if self._is_local:
            return  # nothing is reserved there
        settings, seen = self._settings, seen or self._seen()
        asked = {"CPU": need.threads, "GPU": need.device == "cuda"}
        limits = {"CPU": settings.cluster_cores, "GPU": settings.cluster_gpus}
        for name, each in asked.items():
            most, wanted = limits[name] or seen[name], need.workers * each
            if seen["CPU"] and SHARE[need.kind] * wanted > most:
                raise CannotRun(
                    f"runtime.workers={need.workers}, runtime.threads={need.threads}: needs "
                    f"{wanted} {name}s, and the cluster has {most:g}; ask for less, or add nodes "
                    "and resume the sweep"
                )

    def _seen(self) -> dict[str, float]:
        """What the cluster has of each resource. Nodes that left count until they are given up."""
        now, has = time.monotonic(), ray.cluster_resources()
        for name in ("CPU", "GPU"):
            amount, before = has.get(name, 0.0), self._most.get(name)
            if before is None or amount >= before.most or now - before.at > NODE_SECONDS:
                self._most[name] = _Amount(amount, now)
        return {name: amount.most for name, amount in self._most.items()}

    def _drop_impossible(self) -> None:
        """Ends workers that wait for nodes that left; the next launch tells why it cannot be."""
        seen = self._seen()  # in every round, so that it knows when a node left
        for name, worker in list(self._workers.items()):
            try:
                if worker.digest:
                    self._check_possible(worker.need, seen)
            except CannotRun as reason:
                if self._store.trial(str(worker.digest)).state in KIND_OF_WAITING:
                    logger.warning("%s: %s", name, reason)
                    self.kill(name)

    def _slots(self, kind: WorkKind) -> int:
        if kind is WorkKind.EVAL:
            return self._eval_slots
        return self._train_slots or num_slots()

    def _taken(self, kind: WorkKind) -> int:
        busy = (worker.need for worker in self._workers.values() if worker.digest)
        return sum(self._size(need) for need in busy if need.kind is kind)

    def _size(self, need: Need) -> int:
        """Number of slots that it takes: one per thread if slots are cores."""
        slots_are_cores = self._train_slots is None and need.device == "cpu"
        is_counted = need.kind is WorkKind.TRAIN and slots_are_cores
        return need.workers * (need.threads if is_counted else 1)

    def _kill_idle_workers(self) -> None:
        """Frees the resources of idle workers, because other coordinators may need them."""
        overdue = time.monotonic() - IDLE_SECONDS
        for name, worker in list(self._workers.items()):
            if worker.digest is None and worker.idle_since < overdue:
                self.kill(name)

    def _leave_draining_nodes(self) -> None:
        """Lets workers on nodes that are about to be removed release their trials in time."""
        draining = draining_nodes()
        if not draining:
            return
        for name, worker in list(self._workers.items()):
            if worker.is_leaving or _node_of(worker) not in draining:
                continue
            logger.warning("%s: its node is about to be removed", name)
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
        """Frees a worker that returned. If it was lost, removes it and returns the reason."""
        worker = self._workers[name]
        try:
            state = ray.get(worker.returned)
        except RayError as error:
            # An unreachable worker may still run. If the kill does not reach it, its old attempt
            # number prevents it from writing to the store.
            self.kill(name)
            logger.warning("%s: %s", name, error)
            self._count_early_death(name, worker, error)
            preempted = worker.is_leaving or getattr(error, "preempted", False)
            return Death(f"worker lost: {_first_line(error)}", preempted)
        worker.digest, worker.idle_since, self._early_deaths = None, time.monotonic(), 0
        if worker.is_leaving or state in (TrialState.FAILED, TrialState.QUEUED):
            # A failed kernel leaves a CUDA context in which every further trial fails. A worker
            # after a stop request takes no other trial, even if it finished its own.
            self.kill(name)
        return None

    def _count_early_death(self, name: str, worker: _Worker, error: RayError) -> None:
        """Counts workers that died without a claim, because no trial counts them as a failure."""
        assert worker.digest is not None
        holder = self._store.trial(worker.digest).worker
        if holder is not None and name_of(holder) == name:
            self._early_deaths = 0
            return
        self._early_deaths += 1
        if self._early_deaths >= MAX_EARLY_DEATHS or getattr(error, "actor_init_failed", False):
            raise RuntimeError(f"workers die before they take a trial: {error}") from error

    def _need(self, kind: WorkKind, digest: str) -> Need:
        try:
            runtime = TrialSpec.model_validate(self._store.trial(digest).spec).runtime
        except ValidationError:  # from another version: the worker reports it and the trial fails
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
        return self._start_worker(need)

    def _of_kind(self, kind: WorkKind) -> Iterator[str]:
        return (name for name, worker in self._workers.items() if worker.need.kind is kind)

    def _start_worker(self, need: Need) -> _Worker:
        name = f"{need.kind}-{next(self._names)}"
        arguments = (name, self._settings, self._sink_factory)
        options = self._options(need)
        if need.workers > 1:
            # The ranks need the resources; the process that starts them only waits.
            resources = {"CPU": options.pop("num_cpus"), "GPU": options.pop("num_gpus")}
            remote = ray.remote(GroupActor).options(name=name, num_cpus=0, **options)
            actor = remote.remote(*arguments, resources=resources, handles_sigterm=True)
        else:
            remote = ray.remote(ACTORS[need.kind]).options(name=name, **options)
            slots = {"slots": max(1, self._slots(need.kind) // self._size(need))}
            more = slots if need.kind is WorkKind.TRAIN else {}
            actor = remote.remote(*arguments, handles_sigterm=True, **more)
        worker = _Worker(actor, need, node_id=actor.__ray_call__.remote(_node_id))
        self._workers[name] = worker
        return worker

    def _options(self, need: Need) -> dict[str, Any]:
        threads = str(need.threads)
        # Libraries read these at their import, so they must be set before the actor starts.
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        on_gpu = need.device == "cuda"
        if not on_gpu:
            environment["CUDA_VISIBLE_DEVICES"] = ""  # num_gpus=0 does not hide GPUs (ray #54928)
        share = SHARE[need.kind]
        return {
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 2,  # request_stop must run while work runs
            # On a private cluster only the slots are a limit, and they may exceed the cores.
            "num_cpus": 0 if self._is_local else share * need.threads,
            "num_gpus": share if on_gpu else 0,
            "runtime_env": {"env_vars": environment},
        }


def _first_line(error: RayError) -> str:
    """The first line of an actor's error, without Ray's description of the place."""
    return str(getattr(error, "cause", None) or error).strip().splitlines()[0]


def _node_of(worker: _Worker) -> str | None:
    """The id of its node; None while it starts, and after it died."""
    ready, _ = ray.wait([worker.node_id], timeout=0)
    try:
        return str(ray.get(worker.node_id)) if ready else None
    except RayError:  # `gone` tells of it, if it had a trial
        return None


def _node_id(_: object) -> str:
    """The node of the actor that runs this."""
    return str(ray.get_runtime_context().get_node_id())
