"""One trial on several workers: a group of processes that Ray Train starts and torch connects.

The first rank is a train actor as any other: it claims the trial, keeps the lease, records, writes
checkpoints and the verdict. The other ranks only compute. Who launched the group holds nothing and
waits for its end, so no lease runs while the group waits for resources.

Without a disk that all hosts share (`mirror_url`) a group stays on one host.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch.distributed as dist
from ray.exceptions import RayError

from evenload.pipeline.errors import PeerLost
from evenload.pipeline.records.run import EvalRecord, RunIdentity
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import RuntimeSpec, TrialSpec
from evenload.pipeline.states import Command, TrialRecord, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.worker_id import name_of
from evenload.workers.actors.actor import SinkFactory
from evenload.workers.actors.attempt_log import attempt_log
from evenload.workers.actors.group_signals import GroupSignals
from evenload.workers.actors.outage import through_outages
from evenload.workers.actors.ray_cluster import connect
from evenload.workers.actors.train_actor import TrainActor
from evenload.workers.training.loop import train
from evenload.workers.training.ranks import Ranks

logger = logging.getLogger(__name__)

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
COLLECTIVE_SECONDS = 600  # a rank may write a checkpoint while the others wait for it
INHERITED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
ENDS_WELL = (TrialState.TRAINED, TrialState.QUEUED, TrialState.STOPPED, TrialState.CANCELLED)


class Task(NamedTuple):
    """What every rank of a group is told."""

    name: str
    settings: Settings
    sink_factory: SinkFactory
    digest: str
    spec: TrialSpec
    signals: Any  # handle of a GroupSignals


class GroupEnded(Exception):
    """The first rank is done with the trial and the others need not go on."""


class GroupActor:
    """Stands for a group where the executor expects a train actor.

    Args:     as of a train actor; `resources` are those of each rank
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        sink_factory: SinkFactory,
        *,
        resources: dict[str, float],
        heeds_sigterm: bool = False,
    ) -> None:
        self._name = name
        self._settings = settings
        self._sink_factory = sink_factory
        self._resources = resources
        self._store = SweepStore(settings.store_url)
        self._signals = ray.remote(GroupSignals).options(num_cpus=0).remote()
        self._stopping = False
        if heeds_sigterm:
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def work(self, digest: str) -> TrialState | None:
        """Lets a group work on the trial.

        Returns:  the state it left the trial in; None where another worker has it
        Raises:   PeerLost: a rank died; the trial is as it was or still claimed in this actor's
                  name
        """
        from ray.train import TrainingFailedError

        trial = self._trial(digest)
        if self._stopping or trial.state is not TrialState.QUEUED:
            return None  # before a group is started for nothing
        spec = TrialSpec.model_validate(trial.spec)
        task = Task(self._name, self._settings, self._sink_factory, digest, spec, self._signals)
        try:
            _trainer(task, self._resources).fit()
        except TrainingFailedError as error:
            now = self._trial(digest)
            unclaimed = now.state is TrialState.QUEUED and now.attempt == trial.attempt
            if unclaimed or self._holds(now):
                raise _loss(error) from error
            return now.state if now.state is TrialState.FAILED else None
        finally:
            shutil.rmtree(_ray_folder(self._settings) / digest, ignore_errors=True)
        return self._trial(digest).state

    def request_stop(self, preempted: bool = False) -> None:
        """As of a train actor."""
        self._stopping = True
        self._signals.stop.remote(preempted)

    def _on_sigterm(self, *_: object) -> None:
        # Not from within the handler: it may have interrupted Ray's own code.
        threading.Thread(target=self.request_stop, kwargs={"preempted": True}).start()

    def _trial(self, digest: str) -> TrialRecord:
        return through_outages(lambda: self._store.trial(digest))

    def _holds(self, trial: TrialRecord) -> bool:
        return trial.state.is_held and name_of(trial.worker or "") == self._name


def train_in_group(settings: Settings, digest: str, sink_factory: SinkFactory) -> None:
    """For a process that is no actor: on the cluster that RAY_ADDRESS names, or one of its own.

    Raises:   PeerLost: as GroupActor.work
    """
    is_ours = connect(os.environ.get("RAY_ADDRESS"))
    try:
        shared = settings.model_copy(update={"home": settings.root})
        GroupActor(f"here-{os.getpid()}", shared, sink_factory, resources={}).work(digest)
    finally:
        if is_ours:
            ray.shutdown()


def work_as_rank(task: Task) -> None:
    """What each process of the group does."""
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    if ranks.is_first:
        _lead(task, ranks)
    else:
        _follow(task, ranks)


def _lead(task: Task, ranks: Ranks) -> None:
    ray.get(task.signals.begin.remote())
    actor = TrainActor(task.name, task.settings, task.sink_factory, ranks=ranks)
    threading.Thread(target=_pass_on_stop, args=(task.signals, actor), daemon=True).start()
    try:
        left_in = actor.work(task.digest)
    finally:
        ray.get(task.signals.end.remote())
    if left_in not in ENDS_WELL:
        raise GroupEnded(f"the trial is {left_in or 'with another worker'}")


def _pass_on_stop(signals: Any, actor: TrainActor) -> None:
    try:
        actor.request_stop(preempted=ray.get(signals.stopped.remote()))
    except RayError:
        logger.debug("the group ended without being told to stop")


def _follow(task: Task, ranks: Ranks) -> None:
    log = task.settings.trial_dir(task.digest) / "logs" / f"rank-{ranks.rank:03}.log"
    with attempt_log(log, task.settings):
        try:
            # The first rank has the trial now, and its folder is as the run starts from it.
            ranks.barrier()
            train(
                task.spec,
                settings=task.settings,
                digest=task.digest,
                sink=NoSink(),
                report=lambda _: Command.CONTINUE,
                run=_nobody(task),
                ranks=ranks,
            )
        except Exception:
            logger.exception("rank %d fails", ranks.rank)
            # The first rank notices at once. It has a verdict to write before the group ends.
            dist.destroy_process_group()
            ray.get(task.signals.ended.remote())
            raise


def _nobody(task: Task) -> RunIdentity:
    return RunIdentity(task.digest, task.name, None, 0, task.spec.model_dump(mode="json"))


class NoSink:
    """Records nothing: the first rank does."""

    errors = 0

    def start(self, run: RunIdentity) -> None: ...

    def log_steps(self, records: Any) -> None: ...

    def log_eval(self, record: EvalRecord) -> None: ...

    def checkpoint(self, step: int, uri: str) -> None: ...

    def close(
        self, state: TrialState, result: dict[str, Any], error: str | None = None
    ) -> None: ...


def _trainer(task: Task, resources: dict[str, float]) -> Any:
    # Imported late: it takes seconds, and most trials have one worker.
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    runtime = task.spec.runtime
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return TorchTrainer(
        _unpacked,
        train_loop_config={"task": task},
        torch_config=TorchConfig(BACKENDS[runtime.device], timeout_s=COLLECTIVE_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=runtime.workers,
            use_gpu=runtime.device == "cuda",
            # Of a cluster of our own it may reserve nothing, but Ray wants a number.
            resources_per_worker={"CPU": 1e-3} | {k: v for k, v in resources.items() if v},
            label_selector=here if task.settings.mirror_url else None,
        ),
        run_config=RunConfig(
            name=task.digest,
            storage_path=str(_ray_folder(task.settings)),
            failure_config=FailureConfig(max_failures=0),  # a retry is a new attempt, of the store
            worker_runtime_env={"env_vars": _environment(runtime)},
        ),
    )


def _ray_folder(settings: Settings) -> Path:
    """What Ray Train insists on having; checkpoints lie elsewhere."""
    return settings.root / "ray_train"


def _unpacked(config: dict[str, Any]) -> None:
    work_as_rank(config["task"])


def _environment(runtime: RuntimeSpec) -> dict[str, str]:
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if runtime.device == "cpu" else {}
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | hidden


def _loss(error: Exception) -> PeerLost:
    """Which rank died first, and of what."""
    failures = getattr(error, "worker_failures", {})
    told = [f"rank {rank}: {_first_line(failure)}" for rank, failure in sorted(failures.items())]
    preempted = any(getattr(failure, "preempted", False) for failure in failures.values())
    return PeerLost("; ".join(told) or _first_line(error), preempted)


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
