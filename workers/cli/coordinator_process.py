"""The coordinator in a process of its own: whoever loses its Ray cluster is ended by Ray."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from evenload.pipeline.records.sinks import default_sinks
from evenload.pipeline.redaction import start_logging
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.coordinator import Coordinator
from evenload.pipeline.sweep.policies import SweepPolicies
from evenload.workers.actors.ray_cluster import as_cluster_node
from evenload.workers.actors.ray_executor import RayExecutor
from evenload.workers.training.identity import identify

logger = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 30.0
GRACE_SECONDS = 150.0  # more than workers get to write their checkpoints


class Cluster(NamedTuple):
    """The Ray cluster that trials run on."""

    address: str | None
    join: bool
    slots: int | None
    has_cuda: bool | None = None  # whether its workers have GPUs; None: as this process


class Coordination:
    """A coordinator of all sweeps, started again whenever it ends.

    Args:     health_file: touched after every round; old where the store or Ray do not answer
    """

    def __init__(self, settings: Settings, cluster: Cluster, health_file: Path) -> None:
        self._arguments = (settings, cluster, health_file)
        self._process: BaseProcess | None = None
        self._started = self._next_start = -math.inf
        self._wait_seconds = 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.join(GRACE_SECONDS)
            self._process.kill()

    def revive(self) -> None:
        """Starts the coordinator if it does not run, later and later where it keeps on dying."""
        if self._process is not None and self._process.is_alive():
            return
        if self._process is not None:
            self._bury(self._process)
        elif time.monotonic() >= self._next_start:
            self._started = time.monotonic()
            self._process = get_context("spawn").Process(target=_coordinate, args=self._arguments)
            self._process.start()

    def _bury(self, process: BaseProcess) -> None:
        self._process = None
        lived = time.monotonic() - self._started
        short = lived < MAX_WAIT_SECONDS
        self._wait_seconds = min(MAX_WAIT_SECONDS, 2 * self._wait_seconds) if short else 1.0
        self._next_start = time.monotonic() + self._wait_seconds
        logger.warning(
            "the coordinator ended with %s after %.0f s; again in %.0f s",
            process.exitcode,
            lived,
            self._wait_seconds,
        )


def _coordinate(settings: Settings, cluster: Cluster, health_file: Path) -> None:
    start_logging(settings)

    def show_health(_: Sequence[TrialRecord]) -> None:
        health_file.touch()

    joins = cluster.join and cluster.address is not None
    with as_cluster_node(cluster.address) if joins and cluster.address else nullcontext():
        executor = RayExecutor(
            settings, default_sinks, train_slots=cluster.slots, address=cluster.address
        )
        store = SweepStore(settings.store_url)
        policies = SweepPolicies(
            store, partial(identify, settings=settings, has_cuda=cluster.has_cuda)
        )
        # Workers train on without the database; only who steers them can end them.
        Coordinator(
            store, executor, observer=show_health, policies=policies, outage_seconds=math.inf
        ).run()
