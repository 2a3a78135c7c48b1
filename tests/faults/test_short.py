"""The most frequent faults, in one sweep that is disturbed; see also `test_long.py`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import AttemptState, TrialRecord, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from tests.faults.outcome import (
    check_attempts,
    check_runs,
    finished_too_early,
    outcome,
    sweep,
    undisturbed,
)
from tests.faults.services import Service, until

# The timeout is long because other tests slow the machine down; alone it takes half a minute.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def killed(store: SweepStore, sweep_id: str, choose: Callable[[TrialRecord], bool]) -> str:
    """Waits for a trial that `choose` accepts and kills its worker; returns the worker's id."""

    def chosen() -> str | None:
        return next((t.worker for t in store.trials(sweep_id) if choose(t)), None)

    worker: str = until(chosen, 300, "a trial to disturb", every=0.05)
    os.kill(int(worker.rpartition(":")[2]), signal.SIGKILL)
    return worker


def test_killing_coordinator_and_workers_does_not_change_the_outcome(tmp_path: Path) -> None:
    spec = sweep("short", seeds=[0], steps=500)
    whole, _ = undisturbed(spec, tmp_path / "undisturbed")

    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    settings = Settings(home=tmp_path / "disturbed")
    store, sweep_id = SweepStore(settings.store_url), spec.sweep_id()
    evenload = Path(sys.executable).with_name("evenload")
    command = [evenload, "sweep", "run", tmp_path / "sweep.yaml", "--slots", "1"]
    environment = os.environ | {"EVENLOAD_HOME": str(settings.root), "OMP_NUM_THREADS": "1"}
    coordinator = Service("coordinator", command, tmp_path, environment)

    def trains(trial: TrialRecord) -> bool:
        return trial.state is TrialState.TRAINING and _has_checkpoint(settings, trial)

    try:
        coordinator.start()
        until(lambda: _is_listed(store, sweep_id), 200, "the sweep is listed")
        until(
            lambda: any(map(trains, store.trials(sweep_id))), 200, "training has begun", every=0.05
        )
        coordinator.kill()
        assert finished_too_early(settings.root / "mlflow.db", store, sweep_id) == []
        orphan = next(t.worker for t in store.trials(sweep_id) if t.state.is_held)

        coordinator.start()
        trainer = killed(store, sweep_id, lambda t: trains(t) and t.worker != orphan)
        scorer = killed(store, sweep_id, lambda t: t.state is TrialState.EVALUATING)
        assert coordinator.ended(seconds=400) == 0, coordinator.log_tail()
    finally:
        coordinator.end(seconds=0)
    assert outcome(store, settings, sweep_id) == whole
    check_attempts(store, sweep_id)
    check_runs(settings.root / "mlflow.db", store, sweep_id)
    lost = {
        attempt.worker: attempt.exit_reason
        for trial in store.trials(sweep_id)
        for attempt in store.attempts(trial.digest)
        if attempt.state is AttemptState.LOST
    }
    assert lost.keys() == {orphan, trainer, scorer}
    assert lost[str(orphan)] == "its coordinator ended"
    assert not Path("/proc", str(orphan).rpartition(":")[2]).exists(), "it outlived its coordinator"
    assert "worker lost" in str(lost[trainer])
    assert sum(trial.failures for trial in store.trials(sweep_id)) == 2
    store.close()


def _is_listed(store: SweepStore, sweep_id: str) -> bool:
    try:
        return bool(store.trials(sweep_id))
    except SpecError:
        return False


def _has_checkpoint(settings: Settings, trial: TrialRecord) -> bool:
    return any((settings.trial_dir(trial.digest) / "checkpoints").glob("step-*.pt"))
