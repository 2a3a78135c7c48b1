"""What a service does for sweeps beside running them: lists their trials, closes them in MLflow."""

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
from evenload.workers.cli.session import identified
from evenload.workers.cli.sweep_runner import give_run

logger = logging.getLogger(__name__)


class Admission:
    """Takes submitted sweeps in, and ends the runs of those that are over.

    What the store or MLflow cannot take now is tried again in the next round. A sweep that cannot
    run here is paused, with the reason as its note; `evenload sweep resume` tries it again.

    Args:     has_cuda: whether the workers have GPUs; None asks this process
    """

    def __init__(self, store: SweepStore, settings: Settings, has_cuda: bool | None) -> None:
        self._store = store
        self._settings = settings
        self._has_cuda = has_cuda
        self._settled: set[str] = set()

    def round(self) -> None:
        try:
            for sweep in self._store.sweeps():
                self._look_after(sweep)
        except StoreUnavailable as error:
            logger.warning("%s; trying again", error)
        except mlflow_sink.FAILURES as error:
            logger.warning("MLflow: %s; trying again", _first_line(error))

    def _look_after(self, sweep: SweepRecord) -> None:
        """Raises: StoreUnavailable; what MLflow raises while it is away"""
        try:
            if sweep.state is SweepState.ACTIVE and not sweep.is_expanded:
                self._admit(sweep)
            elif sweep.state in OVER and sweep.sweep_id not in self._settled:
                self._settle(sweep)
        except mlflow_sink.FAILURES as error:
            if mlflow_sink.is_outage(error):
                raise
            # What is wrong with one sweep keeps no other one waiting.
            logger.warning("sweep %s: MLflow: %s; trying again", sweep.sweep_id, _first_line(error))

    def _admit(self, sweep: SweepRecord) -> None:
        try:
            spec = SweepSpec.model_validate(sweep.spec)
            trials = identified(spec, self._settings, self._has_cuda)
            give_run(self._store, self._settings, sweep.sweep_id)
            # Reading the corpus takes minutes, in which the sweep may have been ended.
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
        except SpecError as error:  # it was ended or deleted meanwhile
            logger.warning("%s", error)

    def _settle(self, sweep: SweepRecord) -> None:
        mlflow_sink.settle(self._settings, sweep, self._store.trials(sweep.sweep_id))
        self._settled.add(sweep.sweep_id)
        logger.info("sweep %s is %s", sweep.sweep_id, sweep.state)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
