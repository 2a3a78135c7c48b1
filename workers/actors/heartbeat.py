"""Renews a claim while its trial computes, stores progress and receives commands."""

import logging
import math
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


def seconds_with_sleep() -> float:
    """A clock that never goes back and counts the time that the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Heartbeat:
    """Renews the lease in a separate thread, so that a step may take longer than the lease.

    A lease is certain for as long as it lasts, from the moment when the last answered renewal was
    sent. The clock counts the sleep of a laptop as well: others may have gone on meanwhile.
    """

    def __init__(
        self,
        store: SweepStore,
        claim: Claim,
        settings: Settings,
        clock: Callable[[], float] = seconds_with_sleep,
    ) -> None:
        self._store = store
        self._claim = claim
        self._settings = settings
        self._progress: Progress | None = None
        self._points: list[CurvePoint] = []
        self._points_lock = threading.Lock()
        self._command = Command.CONTINUE
        self._stop_requested = threading.Event()
        self._clock = clock
        self._renewed_at = -math.inf  # when the last renewal was sent that has been answered
        self._changed = threading.Condition()
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
        except (StoreUnavailable, OSError) as away:
            logger.warning("%s", away)

    def report(self, progress: Progress) -> Command:
        """Training calls this after every step.

        Raises:   as `confirm`
        """
        self._progress = progress
        self.confirm()
        return Command.STOP if self._stop_requested.is_set() else self._command

    def confirm(self) -> None:
        """Returns if the worker surely holds its lease; waits while the database does not answer.

        Raises:   LeaseLost: stop and write nothing; or any other error that ended the heartbeat
        """
        with self._changed:
            while self._error is None and not self._is_certain():
                if self._stop_requested.is_set() and self._renewed_at > -math.inf:
                    raise LeaseLost(
                        f"told to stop while the database does not answer; {self._claim.digest} "
                        "resumes from its last checkpoint"
                    )
                self._changed.wait(self._settings.heartbeat_seconds)
        if self._error is not None:
            raise self._error

    def _is_certain(self) -> bool:
        return self._clock() - self._renewed_at < self._settings.lease_seconds

    @property
    def must_stop(self) -> bool:
        """Whether the next `report` will not return CONTINUE."""
        is_told = self._command is not Command.CONTINUE
        return is_told or self._stop_requested.is_set() or self._error is not None

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
        while self._error is None:
            try:
                self._beat()
            except StoreUnavailable as error:
                logger.warning("no heartbeat; training waits once the lease is over: %s", error)
            except LeaseLost as lost:
                self._error = lost
            except Exception as error:
                # Another worker will take the trial, so this one must end.
                logger.exception("the heartbeat failed")
                self._error = error
            with self._changed:
                self._changed.notify_all()
            if self._ended.wait(self._settings.heartbeat_seconds):
                return

    def _beat(self) -> None:
        if os.getppid() != self._host_process:
            logger.warning("the process that started this worker has ended: releasing the trial")
            self.request_stop()
        sent_at = self._clock()
        self._command = self._store.heartbeat(
            self._claim, self._progress, self._settings.lease_seconds
        )
        self._renewed_at = sent_at
        self.store_curve()
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
