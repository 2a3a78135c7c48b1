from __future__ import annotations

from typing import Any

import pytest

from evenload.dashboard.sweeps.spending import spent, train_seconds
from evenload.pipeline.figures.cost import CostSettings

SETTINGS = CostSettings(gpu_watts=500, core_watts=4, overhead=1.5)


def test_energy_of_cores_is_modelled(demo: Any) -> None:
    trials = [trial for trial in demo.trials("finished") if "train_seconds" in trial.result]
    found = spent(trials, SETTINGS)
    assert found.gpu_seconds == 0
    assert found.core_seconds == pytest.approx(sum(t.result["train_seconds"] for t in trials))
    assert found.joules == pytest.approx(4 * 1.5 * found.core_seconds)


def test_time_of_a_running_trial_comes_from_its_throughput(demo: Any) -> None:
    trial = demo.trial("running", "sign 0.05", 16)
    assert train_seconds(trial) == pytest.approx(180 * 512 / 24_800)
    assert train_seconds(demo.trials("cancelled")[0]) == 0


def test_measured_energy_of_a_gpu_replaces_the_model(demo: Any) -> None:
    trial = demo.trial("finished", "none", 8)
    trial.spec["runtime"]["device"] = "cuda"
    seconds = train_seconds(trial)
    assert spent([trial], SETTINGS).joules == pytest.approx(500 * 1.5 * seconds)
    trial.result["joules_per_step"] = 2.0
    found = spent([trial], SETTINGS)
    assert found.joules == pytest.approx(2.0 * 300 * 1.5)
    assert found.gpu_seconds == seconds
