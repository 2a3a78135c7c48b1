"""Trains one trial on several workers: Ray Train starts a group of processes, torch connects them.

The first rank is a normal train actor: it claims the trial, keeps the lease, records, and writes
checkpoints and the verdict. The other ranks only compute. The process that starts the group waits
without a claim, so no lease runs out while the group waits for resources.

Without a disk that all hosts share (`mirror_url`), a group stays on one host.
"""

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch.distributed as dist
from ray.exceptions import RayError

from evenload.pipeline.errors import PeerLost, StoreUnavailable
from evenload.pipeline.outage import retry_while_away
from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.sinks import SinkGroup
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import RuntimeSpec, TrialSpec
from evenload.pipeline.states import Command, TrialRecord, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.worker_id import name_of
from evenload.workers.actors.actor import SinkFactory
from evenload.workers.actors.attempt_log import attempt_log
from evenload.workers.actors.group_signals import GroupSignals
from evenload.workers.actors.ray_cluster import connect
from evenload.workers.actors.run_identity import checked_corpus
from evenload.workers.actors.train_actor import TrainActor
from evenload.workers.training.loop import train
from evenload.workers.training.ranks import Ranks

logger = logging.getLogger(__name__)

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
ROOM_POLL_SECONDS = 2.0
COLLECTIVE_SECONDS = 600  # long enough for the first rank to write a checkpoint
INHERITED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
ENDS_WELL = (TrialState.TRAINED, TrialState.QUEUED, TrialState.STOPPED, TrialState.CANCELLED)


class Task(NamedTuple):
    """The arguments of every rank of a group."""

    name: str
    settings: Settings
    sink_factory: SinkFactory
    digest: str
    spec: TrialSpec
    signals: Any  # Ray handle of a GroupSignals


class GroupEnded(Exception):
    """The first rank has finished with the trial, so the other ranks must end."""


class GroupActor:
    """Has the interface of a train actor and lets a group of processes do the work.

    Args:     as in a train actor; `resources` are those of each rank
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        sink_factory: SinkFactory,
        *,
        resources: dict[str, float],
        handles_sigterm: bool = False,
    ) -> None:
        self._name = name
        self._settings = settings
        self._sink_factory = sink_factory
        self._resources = resources
        self._store = SweepStore(settings.store_url)
        self._signals = ray.remote(GroupSignals).options(num_cpus=0).remote()
        self._stopping = False
        if handles_sigterm:
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def work(self, digest: str) -> TrialState | None:
        """Lets a group work on the trial.

        Returns:  the new state of the trial; None if another worker has it
        Raises:   PeerLost: a rank died; the trial is unchanged or still claimed by this actor
        """
        from ray.train import TrainingFailedError

        trial = self._trial(digest)
        spec = TrialSpec.model_validate(trial.spec)
        if not self._awaited_room(digest, spec.runtime.workers):
            return None  # avoids starting a group without work
        task = Task(self._name, self._settings, self._sink_factory, digest, spec, self._signals)
        try:
            _trainer(task, self._resources).fit()
        except TrainingFailedError as error:
            now = self._trial(digest)
            unclaimed = now.state is TrialState.QUEUED and now.attempt == trial.attempt
            is_ours = now.state.is_held and name_of(now.worker or "") == self._name
            if unclaimed or is_ours:
                raise _peer_lost(error) from error
            return now.state if now.state is TrialState.FAILED else None
        finally:
            shutil.rmtree(_ray_folder(self._settings) / digest, ignore_errors=True)
        return self._trial(digest).state

    def _awaited_room(self, digest: str, workers: int) -> bool:
        """Waits for the resources of all ranks; False if the trial must not start any more.

        Without it Ray Train would wait for them, where it hears no cancel, pause or stop.
        """
        while not self._stopping and retry_while_away(
            lambda: self._store.is_claimable(digest, WorkKind.TRAIN), StoreUnavailable
        ):
            free = ray.available_resources()
            if all(free.get(name, 0.0) >= workers * n for name, n in self._resources.items()):
                return True
            time.sleep(ROOM_POLL_SECONDS)
        return False

    def request_stop(self, preempted: bool = False) -> None:
        """As in a train actor."""
        self._stopping = True
        self._signals.stop.remote(preempted)

    def _on_sigterm(self, *_: object) -> None:
        # In a thread, because the signal may have interrupted Ray's own code.
        threading.Thread(target=self.request_stop, kwargs={"preempted": True}).start()

    def _trial(self, digest: str) -> TrialRecord:
        return retry_while_away(lambda: self._store.trial(digest), StoreUnavailable)


@contextmanager
def cluster_here() -> Iterator[None]:
    """Connects a process that is not an actor to the cluster at RAY_ADDRESS or a private one."""
    is_ours = connect(os.environ.get("RAY_ADDRESS"))
    try:
        yield
    finally:
        if is_ours:
            ray.shutdown()


def work_as_rank(task: Task) -> None:
    """Runs in each process of the group."""
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    if ranks.is_first:
        _work_as_first(task, ranks)
    else:
        _work_as_other(task, ranks)


def _work_as_first(task: Task, ranks: Ranks) -> None:
    ray.get(task.signals.begin.remote())
    actor = TrainActor(task.name, task.settings, task.sink_factory, ranks=ranks)
    threading.Thread(target=_pass_on_stop, args=(task.signals, actor), daemon=True).start()
    try:
        state = actor.work(task.digest)
    finally:
        ray.get(task.signals.end.remote())
    if state not in ENDS_WELL:
        raise GroupEnded(f"the trial is {state or 'with another worker'}")


def _pass_on_stop(signals: Any, actor: TrainActor) -> None:
    try:
        actor.request_stop(preempted=ray.get(signals.wait_for_stop.remote()))
    except RayError:
        logger.debug("the group ended without a stop request")


def _work_as_other(task: Task, ranks: Ranks) -> None:
    log = task.settings.trial_dir(task.digest) / "logs" / f"rank-{ranks.rank:03}.log"
    with attempt_log(log, task.settings):
        try:
            # The first rank calls this after it has claimed the trial and prepared its folder.
            ranks.barrier()
            corpus = checked_corpus(task.spec, task.digest, task.settings)
            train(
                task.spec,
                settings=task.settings,
                digest=task.digest,
                sink=SinkGroup([]),  # only the first rank records
                report=lambda _: Command.CONTINUE,
                run=RunIdentity(task.digest, task.name, None, 0, {}, tags={"corpus": corpus}),
                ranks=ranks,
            )
        except Exception:
            logger.exception("rank %d fails", ranks.rank)
            # Disconnects from the first rank, and gives it time to write its verdict.
            dist.destroy_process_group()
            ray.get(task.signals.wait_for_end.remote())
            raise


def _trainer(task: Task, resources: dict[str, float]) -> Any:
    # Imported here, because it takes seconds and most trials have one worker.
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    runtime = task.spec.runtime
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return TorchTrainer(
        _run_task,
        train_loop_config={"task": task},
        torch_config=TorchConfig(BACKENDS[runtime.device], timeout_s=COLLECTIVE_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=runtime.workers,
            use_gpu=runtime.device == "cuda",
            # On a private cluster a rank reserves nothing, but Ray needs a positive number.
            resources_per_worker={"CPU": 1e-3} | {k: v for k, v in resources.items() if v},
            label_selector=here if task.settings.mirror_url else None,
        ),
        run_config=RunConfig(
            name=task.digest,
            storage_path=str(_ray_folder(task.settings)),
            failure_config=FailureConfig(max_failures=0),  # the store starts every retry
            worker_runtime_env={"env_vars": _environment(runtime)},
        ),
    )


def _ray_folder(settings: Settings) -> Path:
    """A folder that Ray Train requires; it does not contain our checkpoints."""
    return settings.root / "ray_train"


def _run_task(config: dict[str, Any]) -> None:
    work_as_rank(config["task"])


def _environment(runtime: RuntimeSpec) -> dict[str, str]:
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if runtime.device == "cpu" else {}
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | hidden


def _peer_lost(error: Exception) -> PeerLost:
    """An error that names the failed ranks and their reasons."""
    failures = getattr(error, "worker_failures", {})
    reasons = [f"rank {rank}: {_first_line(failure)}" for rank, failure in sorted(failures.items())]
    preempted = any(getattr(failure, "preempted", False) for failure in failures.values())
    return PeerLost("; ".join(reasons) or _first_line(error), preempted)


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
