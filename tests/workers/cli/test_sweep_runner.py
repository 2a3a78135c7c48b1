from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.cli import sweep_runner


def test_a_sweep_has_its_mlflow_run_before_its_trials_can_start(
    sweep: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an early trial would not be a child of the sweep's run in MLflow."""
    settings = Settings(home=tmp_path)
    store = SweepStore(settings.store_url)
    store.migrate()
    spec = SweepSpec.model_validate(sweep())
    trials: list[tuple[str, TrialSpec]] = [
        (f"t{at}", trial) for at, trial in enumerate(spec.expand())
    ]
    listed_before: list[int] = []

    def create_mlflow_run(store: SweepStore, settings: Settings, sweep_id: str) -> None:
        listed_before.append(len(store.trials(sweep_id)))
        store.set_parent_run(sweep_id, "run")

    monkeypatch.setattr(sweep_runner, "create_mlflow_run", create_mlflow_run)
    for _ in range(2):
        sweep_id = sweep_runner.register(store, settings, spec, trials)
    assert listed_before == [0, 2]
    assert [trial.digest for trial in store.trials(sweep_id)] == ["t0", "t1"]
    assert store.sweep(sweep_id).parent_run_id == "run"
    store.close()
