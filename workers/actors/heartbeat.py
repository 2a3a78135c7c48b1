"""Keeps a claim alive while its trial computes, and carries progress out and commands in."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pipeline.errors import LeaseLost, StoreUnavailable
from pipeline.records import Claim, Command, Progress
from pipeline.settings import Settings
from pipeline.store.sweep_store import SweepStore

logger = logging.getLogger(__name__)


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
        self._command = Command.CONTINUE
        self._stop_requested = threading.Event()
        self._lost: LeaseLost | None = None
        self._ended = threading.Event()
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

    def report(self, progress: Progress) -> Command:
        """What training calls after every step.  Raises: LeaseLost: stop, and write nothing"""
        self._progress = progress
        if self._lost is not None:
            raise self._lost
        return Command.STOP if self._stop_requested.is_set() else self._command

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

    def _beat(self) -> None:
        self._command = self._store.heartbeat(
            self._claim, self._progress, self._settings.lease_seconds
        )
        run_id = self._run_id()
        if run_id is not None and run_id != self._stored_run_id:
            self._store.set_run_id(self._claim.digest, run_id)
            self._stored_run_id = run_id
