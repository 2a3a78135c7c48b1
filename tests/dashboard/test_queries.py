from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st

from dashboard import queries
from pipeline.errors import SpecError
from pipeline.load_metrics import utilisation
from pipeline.settings import Settings
from pipeline.tracking.load_log import parts, read_eval_counts, read_history


@pytest.fixture
def finished(demo_home: Any) -> Any:
    return demo_home.trial("finished", "sign 0.01", 16)


def _folder(trial: Any) -> Path:
    return Settings().trial_dir(trial.digest)


def test_sweeps_come_with_their_trials(demo_home: Any) -> None:
    counts = {sweep.name: len(trials) for sweep, trials in queries.sweeps()}
    assert counts == {
        "schedules": 8,
        "step-size-by-experts": 15,
        "search": 36,
        "first-try": 2,
        "gpu-night": 0,
    }
    sweep, trials = queries.sweep(demo_home.ids["running"])
    assert (sweep.name, len(trials)) == ("schedules", 8)


def test_unknown_ids_are_named(demo_home: Any) -> None:
    with pytest.raises(SpecError, match="nonsense"):
        queries.sweep("nonsense")
    with pytest.raises(SpecError, match="nonsense"):
        queries.trial("nonsense")


def test_window_sums_counts_before_it_forms_ratios(finished: Any) -> None:
    window = queries.load_window(finished, last=120, steps=10)
    count_SLE = read_history(_folder(finished), first=111, last=120).count_SLE
    assert (window.first, window.last) == (111, 120)
    np.testing.assert_allclose(window.percent_LE, 100 * utilisation(count_SLE.sum(axis=0)), atol=1)


def test_window_at_the_start_is_shorter_and_without_steps_empty(finished: Any) -> None:
    assert queries.load_window(finished, last=3, steps=10)[:2] == (1, 3)
    assert queries.load_window(finished, last=9999, steps=10).percent_LE.shape == (0, 0)


def test_evaluation_load_is_percent_of_the_fair_share(finished: Any) -> None:
    percent_LE = queries.eval_percent(finished)
    assert percent_LE is not None
    counts_LE = read_eval_counts(_folder(finished))
    assert counts_LE is not None
    np.testing.assert_allclose(percent_LE, 100 * utilisation(counts_LE), atol=1)


def test_series_grows_by_the_steps_that_are_new(
    demo_home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = demo_home.trial("finished", "sign 0.01", 16)
    source, folder = _folder(trial), Settings(home=tmp_path).trial_dir(trial.digest)
    shutil.copytree(source, folder)
    monkeypatch.setenv("EVENLOAD_HOME", str(tmp_path))
    late = [p for room in ("steps", "expert_load") for p in parts(folder / room) if p.first > 50]
    for part in late:
        part.path.rename(part.path.with_suffix(".later"))
    assert queries.load_series(trial).last_step == 50
    for part in late:
        part.path.with_suffix(".later").rename(part.path)
    grown = queries.load_series(trial)
    assert grown.last_step == 300
    assert grown.step_B.tolist() == list(range(1, 301))


def test_log_tail_is_the_end_of_the_newest_file(finished: Any, demo_home: Any) -> None:
    tail = queries.log_tail(finished.digest)
    assert tail is not None
    name, text = tail
    assert name == "attempt-1.log"
    assert len(text.splitlines()) == 30
    assert queries.log_tail(demo_home.trials("cancelled")[0].digest) is None


def test_pages_work_without_mlflow(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENLOAD_TRACKING_URI", "http://127.0.0.1:9")
    st.cache_data.clear()
    assert queries.trial(finished.digest).label == "sign 0.01"
    assert queries.load_series(finished).last_step == 300
