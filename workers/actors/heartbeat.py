"""Keeps a claim alive while its trial computes, and carries progress out and commands in."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import psutil

from evenload.pipeline.errors import LeaseLost, StoreUnavailable
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import Claim, Command, CurvePoint, Progress
from evenload.pipeline.store.sweep_store import SweepStore

logger = logging.getLogger(__name__)

PRESENCE_SECONDS = 15.0


class Heartbeat:
    """Renews the lease from a thread of its own: a step longer than the lease does not lose it.

    Args:     run_id: the MLflow run once there is one; stored with the trial as soon as known
    """

    def __init__(
        self,
        store: SweepStore,
        claim: Claim,
        settings: Settings,
        run_id: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._store = store
        self._claim = claim
        self._settings = settings
        self._run_id = run_id
        self._stored_run_id: str | None = None
        self._progress: Progress | None = None
        self._points: list[CurvePoint] = []
        self._points_lock = threading.Lock()
        self._command = Command.CONTINUE
        self._stop_requested = threading.Event()
        self._lost: Exception | None = None
        self._ended = threading.Event()
        self._host_process = os.getppid()
        self._shown_at = -PRESENCE_SECONDS
        self._thread = threading.Thread(target=self._beat_until_ended, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._store.withdraw(self._claim.worker)
        except StoreUnavailable as away:
            logger.warning("%s", away)

    def report(self, progress: Progress) -> Command:
        """What training calls after every step.

        Raises:   LeaseLost: stop, and write nothing; whatever else ended the heartbeat
        """
        self._progress = progress
        if self._lost is not None:
            raise self._lost
        return Command.STOP if self._stop_requested.is_set() else self._command

    def observe(self, point: CurvePoint) -> None:
        """A point of the trial's curve; it is in the store by the next beat or the verdict."""
        with self._points_lock:
            self._points.append(point)

    def deliver(self) -> None:
        """Stores the points that wait.  Raises: LeaseLost; StoreUnavailable: they wait on"""
        with self._points_lock:
            if self._points:
                self._store.record_curve(self._claim, self._points)
                self._points.clear()

    def request_stop(self) -> None:
        """The next `report` answers STOP, whatever the store says."""
        self._stop_requested.set()

    def _beat_until_ended(self) -> None:
        while not self._ended.wait(self._settings.heartbeat_seconds):
            try:
                self._beat()
            except StoreUnavailable as error:
                # While the store is away nobody can take the lease either.
                logger.warning("no heartbeat: %s", error)
            except LeaseLost as lost:
                self._lost = lost
                return
            except Exception as error:
                # Without a heartbeat another worker takes the trial: this one must not go on.
                logger.exception("no heartbeat any more")
                self._lost = error
                return

    def _beat(self) -> None:
        if os.getppid() != self._host_process:
            logger.warning("whoever started this worker is gone: giving the trial back")
            self.request_stop()
        self._command = self._store.heartbeat(
            self._claim, self._progress, self._settings.lease_seconds
        )
        self.deliver()
        run_id = self._run_id()
        if run_id is not None and run_id != self._stored_run_id:
            self._store.set_run_id(self._claim.digest, run_id)
            self._stored_run_id = run_id
        if time.monotonic() - self._shown_at > PRESENCE_SECONDS:
            self._store.announce(self._claim.worker, self._claim.kind, self._facts())
            self._shown_at = time.monotonic()

    def _facts(self) -> dict[str, Any]:
        """What the page of the cluster shows of a worker."""
        return {
            "digest": self._claim.digest,
            "label": self._claim.label,
            "attempt": self._claim.attempt,
            "sweep_id": self._claim.sweep_id,
            "rss_bytes": psutil.Process().memory_info().rss,
        }
