"""A home from 0.1.0, whose packages had other names, can be opened, and its trial resumes."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evenload.pipeline.client import Client
from evenload.pipeline.records.shards import newest_checkpoint, read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialState
from evenload.workers.cli.session import open_store
from evenload.workers.training.inheritance import inherit
from evenload.workers.training.loop import TrainOutcome

RECORDED = Path(__file__).parents[2] / "data" / "home_0.1.0"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    shutil.copytree(RECORDED, home)
    script = (home / "store.sql").read_text(encoding="utf-8").replace("HOME", str(home))
    with sqlite3.connect(home / "evenload.db") as database:
        database.executescript(script)
    return Settings(home=home)


def test_an_old_home_is_read_and_its_checkpoint_trained_further(
    settings: Settings, run_trial: Callable[..., TrainOutcome]
) -> None:
    open_store(settings).close()  # upgrades it, as `evenload sweep list` does
    client = Client(home=settings.home)
    (sweep,) = client.sweeps()
    (trial,) = client.trials(sweep.sweep_id)
    assert trial.state is TrialState.COMPLETED
    assert trial.result["val_loss"] == pytest.approx(3.379, abs=5e-4)
    loads = client.loads(trial.digest)
    assert loads.count_SLE.shape == (12, 1, 8)
    assert (loads.count_SLE.sum(axis=-1) == 4 * 32 * 2).all()
    assert client.eval_routes(trial.digest) is not None

    inherit(settings, "longer", trial.digest)
    assert newest_checkpoint(settings.trial_dir("longer")) == 12
    longer = TrialSpec.model_validate(trial.spec)
    longer = longer.model_copy(
        update={"train": longer.train.model_copy(update={"steps": 16}), "extends": trial.digest}
    )
    outcome = run_trial(longer, digest="longer")
    assert outcome.state is TrialState.TRAINED
    after = read_history(settings.trial_dir("longer"))
    assert list(after.step_S) == list(range(1, 17))
    assert np.array_equal(after.count_SLE[:12], loads.count_SLE)
