"""What a service does for sweeps beside running them: lists their trials, closes them in MLflow."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from pipeline.errors import SpecError, StoreUnavailable, first_message
from pipeline.records import SweepRecord, SweepState
from pipeline.settings import Settings
from pipeline.store.sweep_store import SweepStore
from pipeline.sweep.coordinator import OVER
from pipeline.sweep_spec import SweepSpec
from pipeline.tracking import mlflow_sink
from workers.cli.running import register
from workers.cli.session import identified

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
                if sweep.state is SweepState.ACTIVE and not sweep.is_expanded:
                    self._admit(sweep)
                elif sweep.state in OVER and sweep.sweep_id not in self._settled:
                    self._settle(sweep)
        except StoreUnavailable as error:
            logger.warning("%s; trying again", error)
        except mlflow_sink.FAILURES as error:
            logger.warning("MLflow: %s; trying again", str(error).partition("\n")[0])

    def _admit(self, sweep: SweepRecord) -> None:
        try:
            spec = SweepSpec.model_validate(sweep.spec)
            trials = identified(spec, self._settings, self._has_cuda)
            register(self._store, self._settings, spec, trials)
        except StoreUnavailable:
            raise
        except (SpecError, ValidationError) as error:
            reason = first_message(error) if isinstance(error, ValidationError) else str(error)
            self._store.pause(sweep.sweep_id, note=reason)
            logger.error("sweep %s cannot run and is paused: %s", sweep.sweep_id, reason)
        else:
            logger.info("sweep %s: %d trials", sweep.sweep_id, len(trials))

    def _settle(self, sweep: SweepRecord) -> None:
        mlflow_sink.settle(self._settings, sweep, self._store.trials(sweep.sweep_id))
        self._settled.add(sweep.sweep_id)
        logger.info("sweep %s is %s", sweep.sweep_id, sweep.state)
