"""Renews a claim while its trial computes, stores progress and receives commands."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import psutil

from evenload.pipeline.errors import LeaseLost, StoreUnavailable
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import Claim, Command, CurvePoint, Progress
from evenload.pipeline.store.sweep_store import SweepStore

logger = logging.getLogger(__name__)

ANNOUNCE_SECONDS = 15.0


class Heartbeat:
    """Renews the lease in a separate thread, so that a step may take longer than the lease.

    Args:     run_id: returns the id of the MLflow run once there is one, to store with the trial
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
        self._error: Exception | None = None
        self._ended = threading.Event()
        self._host_process = os.getppid()
        self._announced_at = -ANNOUNCE_SECONDS
        self._thread = threading.Thread(target=self._beat_until_ended, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._store.withdraw(self._claim.worker)
        except StoreUnavailable as away:
            logger.warning("%s", away)

    def report(self, progress: Progress) -> Command:
        """Training calls this after every step.

        Raises:   LeaseLost: stop and write nothing; or any other error that ended the heartbeat
        """
        self._progress = progress
        if self._error is not None:
            raise self._error
        return Command.STOP if self._stop_requested.is_set() else self._command

    def add_curve_point(self, point: CurvePoint) -> None:
        """Adds a point of the learning curve, which the next beat or the verdict stores."""
        with self._points_lock:
            self._points.append(point)

    def store_curve(self) -> None:
        """Stores the added points.

        Raises:   LeaseLost; StoreUnavailable: the points are kept for the next call
        """
        with self._points_lock:
            if self._points:
                self._store.record_curve(self._claim, self._points)
                self._points.clear()

    def request_stop(self) -> None:
        """Makes the next `report` return STOP."""
        self._stop_requested.set()

    def _beat_until_ended(self) -> None:
        while not self._ended.wait(self._settings.heartbeat_seconds):
            try:
                self._beat()
            except StoreUnavailable as error:
                # No other worker can take the lease while the store does not answer.
                logger.warning("no heartbeat: %s", error)
            except LeaseLost as lost:
                self._error = lost
                return
            except Exception as error:
                # Another worker will take the trial, so this one must end.
                logger.exception("the heartbeat failed")
                self._error = error
                return

    def _beat(self) -> None:
        if os.getppid() != self._host_process:
            logger.warning("the process that started this worker has ended: releasing the trial")
            self.request_stop()
        self._command = self._store.heartbeat(
            self._claim, self._progress, self._settings.lease_seconds
        )
        self.store_curve()
        run_id = self._run_id()
        if run_id is not None and run_id != self._stored_run_id:
            self._store.set_run_id(self._claim.digest, run_id)
            self._stored_run_id = run_id
        if time.monotonic() - self._announced_at > ANNOUNCE_SECONDS:
            self._store.announce(self._claim.worker, self._claim.kind, self._facts())
            self._announced_at = time.monotonic()

    def _facts(self) -> dict[str, Any]:
        """Facts about this worker for the cluster page."""
        return {
            "digest": self._claim.digest,
            "label": self._claim.label,
            "attempt": self._claim.attempt,
            "sweep_id": self._claim.sweep_id,
            "rss_bytes": psutil.Process().memory_info().rss,
        }
