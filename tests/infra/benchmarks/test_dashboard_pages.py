"""The benchmark of the dashboard on a small generated home, which has the files of real workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evenload.pipeline.figures.loads import max_vio
from evenload.pipeline.records.load_series import read_series
from evenload.pipeline.records.shards import read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.store.sweep_store import SweepStore
from infra.benchmarks.generated_home import build
from infra.benchmarks.page_timing import measure


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    home = tmp_path_factory.mktemp("benchmark") / "home"
    return home, build(home, steps=2100, layers=2, experts=8, trials=10)


def test_generated_run_keeps_its_spikes_in_the_reduced_history(
    generated: tuple[Path, dict[str, str]],
) -> None:
    home, ids = generated
    settings = Settings(home=home)
    store = SweepStore(settings.store_url)
    spec = TrialSpec.model_validate(store.trial(ids["run"]).spec)
    store.close()
    folder = settings.trial_dir(ids["run"])
    count_SLE = read_history(folder).count_SLE
    assert len(count_SLE) == 2100
    assert (count_SLE.sum(axis=-1) == spec.train.tokens_per_step * spec.model.top_k).all()
    series = read_series(folder, spec.outline)
    assert series.miscounted_steps == 0
    vio_SL = max_vio(count_SLE)
    spiked = np.array([1000, 2000])
    assert (vio_SL[spiked - 1].max(axis=-1) > np.quantile(vio_SL, 0.99)).all()
    bins = (spiked - 1) // series.bin_steps
    assert (series.max_vio_BL[bins] >= vio_SL[spiked - 1] - 1e-6).all()


def test_pages_are_timed_and_their_charts_weighed(
    generated: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, ids = generated
    monkeypatch.setenv("EVENLOAD_HOME", str(home))
    row = measure("run", {"run": ids["run"], "view": "Load"})
    assert row["charts"] == 2
    assert 1000 < row["largest_chart_bytes"] < 300_000
    assert row["warm_seconds"] > 0
    assert 0 < row["cold_seconds"] < 60


def test_home_of_another_size_is_refused(generated: tuple[Path, dict[str, str]]) -> None:
    home, ids = generated
    (home / "benchmark.json").write_text(json.dumps(ids | {"size": {"steps": 2100}}))
    result = subprocess.run(
        [sys.executable, "-m", "infra.benchmarks.dashboard_pages", "--home", str(home), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "choose another --home" in result.stderr
