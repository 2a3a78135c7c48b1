"""Keeps MLflow's runs equal to the store and the shards, in a thread beside the coordinator.

No trial waits for MLflow. What an outage or a kill keeps from it is delivered by the next look, of
this process or of the next `evenload sweep run` or `evenload serve` in the same home.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from evenload.pipeline.errors import StoreUnavailable
from evenload.pipeline.records.mirror import readable_dir
from evenload.pipeline.redaction import without_secrets_of
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import OVER, SweepRecord, TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.worker_id import worker_id

if TYPE_CHECKING:
    from evenload.pipeline.records.mlflow_runs import MlflowRuns

logger = logging.getLogger(__name__)

FIRST_LOOK_SECONDS = 15.0  # Ray starts in the same process, and importing mlflow delays it
LOOK_SECONDS = 5.0
MAX_WAIT_SECONDS = 120.0
HURRIED_SECONDS = 5.0
OVERLAP = timedelta(seconds=60)  # for transactions that end after they took their time
ROLE = "mlflow"


class Projection:
    """Args: store: is also read by other threads"""

    def __init__(self, store: SweepStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._runs: MlflowRuns | None = None  # None: what MLflow has is to be looked up
        self._since: datetime | None = None
        self._refused: set[str] = set()
        self.errors = 0
        self.problem: str | None = None  # why the last look failed
        self.is_hurried = False  # a signal ends the process: what is missing is delivered later

    @property
    def is_ready(self) -> bool:
        """Whether a look is quick: MLflow is imported, and it answered last time."""
        return self._runs is not None

    def look(self) -> bool:
        """Delivers what MLflow lacks. Returns False, and sets `problem`, if that is not all."""
        # Here, because mlflow takes seconds to import and nothing else waits for it.
        from evenload.pipeline.records.mlflow_runs import FAILURES, MlflowRuns

        try:
            self._runs = self._runs or MlflowRuns(self._settings)
            self._deliver(self._runs)
        except StoreUnavailable as error:
            self.problem = str(error)
        except FAILURES as error:
            self._runs = self._since = None
            self._count(f"MLflow: {self._reason(error)}")
        else:
            self.problem = None
        return self.problem is None

    def _deliver(self, runs: "MlflowRuns") -> None:
        now = self._store.now()
        lacking = self._store.unprojected(self._since, runs.unended)
        sweeps = {sweep.sweep_id: sweep for sweep in self._store.sweeps()}
        parents = {sweep_id for _, sweep_id in lacking if sweep_id}
        for sweep_id, sweep in sweeps.items():
            goes_on = sweep.is_expanded and sweep.state not in OVER
            if goes_on or (sweep_id in parents and sweep.parent_run_id is None):
                adopt = partial(self._store.set_parent_run, sweep_id)
                sweeps[sweep_id] = replace(sweep, parent_run_id=runs.put_sweep(sweep, adopt))
        for trial, first_sweep in lacking:
            self._deliver_trial(runs, trial, sweeps.get(first_sweep or ""))
        for sweep in sweeps.values():
            if sweep.state in OVER and sweep.parent_run_id in runs.unended:
                runs.put_sweep(sweep, adopt=str)
        self._since = now - OVERLAP

    def _deliver_trial(
        self, runs: "MlflowRuns", trial: TrialRecord, sweep: SweepRecord | None
    ) -> None:
        from evenload.pipeline.records.mlflow_runs import FAILURES, is_outage

        folder = readable_dir(self._settings, trial.digest)
        adopt = partial(self._store.set_run_id, trial.digest, instead_of=trial.run_id)
        try:
            runs.put_trial(trial, sweep, folder, adopt)
        except FAILURES as error:
            if is_outage(error):
                raise
            if trial.digest not in self._refused:  # one trial must not delay the others
                self._refused.add(trial.digest)
                self._count(f"MLflow refuses trial {trial.digest}: {self._reason(error)}")

    def _reason(self, error: Exception) -> str:
        return without_secrets_of(self._settings.mlflow_uri, error).partition("\n")[0]

    def _count(self, problem: str) -> None:
        self.errors, self.problem = self.errors + 1, problem
        logger.warning("%s; it is delivered later", problem)
        try:
            self._store.announce(worker_id(ROLE), ROLE, {"tracking_errors": self.errors})
        except (StoreUnavailable, OSError) as away:  # a full disk ends the command elsewhere
            logger.warning("%s", away)


@contextmanager
def projecting(store: SweepStore, settings: Settings) -> Iterator[Projection]:
    """Looks every few seconds, less often during an outage, and once more at the end.

    A hurried end waits neither for the import of mlflow nor for a server that does not answer.
    """
    projection, ended = Projection(store, settings), threading.Event()

    def repeat() -> None:
        wait_seconds = FIRST_LOOK_SECONDS
        while not ended.wait(wait_seconds):
            is_fine = projection.look()
            wait_seconds = LOOK_SECONDS if is_fine else min(2 * wait_seconds, MAX_WAIT_SECONDS)

    thread = threading.Thread(target=repeat, name="mlflow", daemon=True)
    thread.start()
    try:
        yield projection
    finally:
        ended.set()
        thread.join(HURRIED_SECONDS if projection.is_hurried else None)
        if not projection.is_hurried or (projection.is_ready and not thread.is_alive()):
            projection.look()
