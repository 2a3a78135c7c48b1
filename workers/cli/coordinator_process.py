"""Runs the coordinator in a separate process, because Ray ends a process that loses its cluster."""

import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple, Self

from evenload.pipeline.processes import end_with_parent
from evenload.pipeline.records.sinks import default_sinks
from evenload.pipeline.redaction import start_logging
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.coordinator import Coordinator
from evenload.pipeline.sweep.policies import SweepPolicies
from evenload.workers.actors.ray_cluster import as_cluster_node
from evenload.workers.actors.ray_executor import RayExecutor
from evenload.workers.cli.limited_calls import LimitedCalls
from evenload.workers.cli.listing import Listing

logger = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 30.0
GRACE_SECONDS = 150.0  # longer than the time for workers to write their checkpoints


class Cluster(NamedTuple):
    """The Ray cluster for the trials."""

    address: str | None
    join: bool
    slots: int | None
    has_cuda: bool | None = None  # whether its workers have GPUs; None: as on this machine


class CoordinatorProcess:
    """A coordinator of all sweeps, which is restarted when it ends.

    Args:     health_file: touched after every round in which the store and Ray answer
    """

    def __init__(self, settings: Settings, cluster: Cluster, health_file: Path) -> None:
        self._arguments = (settings, cluster, health_file)
        self._process: BaseProcess | None = None
        self._started = self._next_start = -math.inf
        self._wait_seconds = 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.join(GRACE_SECONDS)
            self._process.kill()

    def ensure_running(self) -> None:
        """Starts the coordinator if it does not run. The waiting time grows if it ends early."""
        if self._process is not None and self._process.is_alive():
            return
        if self._process is not None:
            self._schedule_restart(self._process)
        elif time.monotonic() >= self._next_start:
            self._started = time.monotonic()
            self._process = get_context("spawn").Process(target=_coordinate, args=self._arguments)
            self._process.start()

    def _schedule_restart(self, process: BaseProcess) -> None:
        self._process = None
        seconds = time.monotonic() - self._started
        is_early = seconds < MAX_WAIT_SECONDS
        self._wait_seconds = min(MAX_WAIT_SECONDS, 2 * self._wait_seconds) if is_early else 1.0
        self._next_start = time.monotonic() + self._wait_seconds
        logger.warning(
            "the coordinator ended with exit code %s after %.0f s; restarting in %.0f s",
            process.exitcode,
            seconds,
            self._wait_seconds,
        )


def touch(path: Path) -> None:
    """Sets the time of a file, which it makes if needed. A link is not followed: it warns."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        logger.warning("%s is not a file of ours: %s; remove it", path, error.strerror)
        return
    os.utime(file)
    os.close(file)


def _coordinate(settings: Settings, cluster: Cluster, health_file: Path) -> None:
    end_with_parent()  # workers then write checkpoints, as after a signal
    start_logging(settings)

    def show_health(_: Sequence[TrialRecord]) -> None:
        touch(health_file)

    joins = cluster.join and cluster.address is not None
    with as_cluster_node(cluster.address) if joins and cluster.address else nullcontext():
        executor = RayExecutor(
            settings, default_sinks, train_slots=cluster.slots, address=cluster.address
        )
        store = SweepStore(settings.store_url)
        listing = Listing(LimitedCalls(settings).ask, settings, cluster.has_cuda)
        policies = SweepPolicies(store, listing.further)
        # Without a limit, because workers continue to train while the database does not answer,
        # and only this coordinator can end them.
        Coordinator(
            store, executor, observer=show_health, policies=policies, outage_seconds=math.inf
        ).run()
