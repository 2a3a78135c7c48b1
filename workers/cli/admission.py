"""Prepares submitted sweeps for `evenload serve`, and closes finished ones in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from evenload.pipeline.errors import SpecError, StoreUnavailable, reason_of
from evenload.pipeline.records import mlflow_sink
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import SweepRecord, SweepState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.coordinator import OVER
from evenload.workers.cli.listing import Listed, Listing
from evenload.workers.cli.sweep_runner import create_mlflow_run

logger = logging.getLogger(__name__)


class MlflowFailed(Exception):
    """MLflow did not answer, or it refused a call."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"MLflow: {str(error).partition(chr(10))[0]}")
        self.is_outage = mlflow_sink.is_outage(error)


@contextmanager
def _calls_of_mlflow() -> Iterator[None]:
    """Only what is raised in here can be a failure of MLflow."""
    try:
        yield
    except mlflow_sink.FAILURES as error:
        raise MlflowFailed(error) from error


class Admission:
    """Stores the trials of submitted sweeps, and ends the MLflow runs of finished ones.

    Whatever fails because the store or MLflow does not answer is tried again in the next round.
    Anything else concerns one sweep, which is paused with the reason as its note; `evenload sweep
    resume` tries it again.

    """

    def __init__(self, store: SweepStore, settings: Settings, listing: Listing) -> None:
        self._store = store
        self._settings = settings
        self._listing = listing
        self._listed: dict[str, Listed] = {}  # until MLflow has their sweep
        self._closed: set[str] = set()

    def process_sweeps(self) -> None:
        try:
            for sweep in self._store.sweeps():
                self._process(sweep)
        except StoreUnavailable as error:
            logger.warning("%s; trying again", error)
        except MlflowFailed as error:
            logger.warning("%s; trying again", error)
        except SpecError as error:  # the store cannot be read
            logger.error("%s", error)

    def _process(self, sweep: SweepRecord) -> None:
        """Raises: StoreUnavailable; MlflowFailed: it does not answer"""
        try:
            if sweep.state is SweepState.ACTIVE and not sweep.is_expanded:
                self._admit(sweep)
            elif sweep.state in OVER and sweep.sweep_id not in self._closed:
                self._close(sweep)
        except StoreUnavailable:
            raise
        except Exception as error:
            if isinstance(error, MlflowFailed) and error.is_outage:
                raise
            # Whatever it is, it must not delay the other sweeps.
            self._listed.pop(sweep.sweep_id, None)
            if sweep.state in OVER:
                self._closed.add(sweep.sweep_id)  # the error would only come again
                logger.error("sweep %s: %s", sweep.sweep_id, reason_of(error))
            else:
                self._pause(sweep.sweep_id, reason_of(error))

    def _admit(self, sweep: SweepRecord) -> None:
        trials = self._listed.get(sweep.sweep_id)
        trials = trials or self._listing.first(sweep.sweep_id, sweep.spec)
        if trials is None:
            return
        self._listed[sweep.sweep_id] = trials
        with _calls_of_mlflow():
            create_mlflow_run(self._store, self._settings, sweep.sweep_id)
        del self._listed[sweep.sweep_id]
        # Reading the corpus takes minutes, and the user may have ended the sweep meanwhile.
        if self._store.admit(sweep.sweep_id, trials):
            logger.info("sweep %s: %d trials", sweep.sweep_id, len(trials))

    def _pause(self, sweep_id: str, reason: str) -> None:
        logger.error("sweep %s cannot run: %s", sweep_id, reason)
        try:
            self._store.pause(sweep_id, note=reason)
        except StoreUnavailable:
            raise
        except SpecError as error:  # the user ended or deleted it meanwhile
            logger.warning("%s", error)

    def _close(self, sweep: SweepRecord) -> None:
        with _calls_of_mlflow():
            mlflow_sink.settle(self._settings, sweep, self._store.trials(sweep.sweep_id))
        self._closed.add(sweep.sweep_id)
        logger.info("sweep %s is %s", sweep.sweep_id, sweep.state)
