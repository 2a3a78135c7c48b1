"""Prepares submitted sweeps for `evenload serve`, and closes finished ones in MLflow."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from evenload.pipeline.errors import SpecError, StoreUnavailable, first_message
from evenload.pipeline.records import mlflow_sink
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import SweepRecord, SweepState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.coordinator import OVER
from evenload.workers.cli.session import initial_trials
from evenload.workers.cli.sweep_runner import create_mlflow_run

logger = logging.getLogger(__name__)


class Admission:
    """Stores the trials of submitted sweeps, and ends the MLflow runs of finished ones.

    Whatever fails because the store or MLflow does not answer is tried again in the next round. A
    sweep that cannot run here is paused with the reason as its note; `evenload sweep resume` tries
    it again.

    Args:     has_cuda: whether the workers have GPUs; None: they run on this machine
    """

    def __init__(self, store: SweepStore, settings: Settings, has_cuda: bool | None) -> None:
        self._store = store
        self._settings = settings
        self._has_cuda = has_cuda
        self._closed: set[str] = set()

    def process_sweeps(self) -> None:
        try:
            for sweep in self._store.sweeps():
                self._process(sweep)
        except StoreUnavailable as error:
            logger.warning("%s; trying again", error)
        except mlflow_sink.FAILURES as error:
            logger.warning("MLflow: %s; trying again", _first_line(error))

    def _process(self, sweep: SweepRecord) -> None:
        """Raises: StoreUnavailable; MLflow's errors while it does not answer"""
        try:
            if sweep.state is SweepState.ACTIVE and not sweep.is_expanded:
                self._admit(sweep)
            elif sweep.state in OVER and sweep.sweep_id not in self._closed:
                self._close(sweep)
        except mlflow_sink.FAILURES as error:
            if mlflow_sink.is_outage(error):
                raise
            # An error of one sweep must not delay the others.
            logger.warning("sweep %s: MLflow: %s; trying again", sweep.sweep_id, _first_line(error))

    def _admit(self, sweep: SweepRecord) -> None:
        try:
            spec = SweepSpec.model_validate(sweep.spec)
            trials = initial_trials(spec, self._settings, self._has_cuda)
            create_mlflow_run(self._store, self._settings, sweep.sweep_id)
            # Reading the corpus takes minutes, and the user may have ended the sweep meanwhile.
            if self._store.admit(sweep.sweep_id, trials):
                logger.info("sweep %s: %d trials", sweep.sweep_id, len(trials))
        except StoreUnavailable:
            raise
        except (SpecError, ValidationError) as error:
            reason = first_message(error) if isinstance(error, ValidationError) else str(error)
            self._pause(sweep.sweep_id, reason)

    def _pause(self, sweep_id: str, reason: str) -> None:
        logger.error("sweep %s cannot run: %s", sweep_id, reason)
        try:
            self._store.pause(sweep_id, note=reason)
        except StoreUnavailable:
            raise
        except SpecError as error:  # the user ended or deleted it meanwhile
            logger.warning("%s", error)

    def _close(self, sweep: SweepRecord) -> None:
        mlflow_sink.settle(self._settings, sweep, self._store.trials(sweep.sweep_id))
        self._closed.add(sweep.sweep_id)
        logger.info("sweep %s is %s", sweep.sweep_id, sweep.state)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
