from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st

from evenload.dashboard.run import queries as run_queries
from evenload.pipeline.figures.evaluation import Detail
from evenload.pipeline.figures.loads import utilisation
from evenload.pipeline.records.load_series import FILE
from evenload.pipeline.records.shards import parts, read_eval_counts, read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState


@pytest.fixture
def finished(demo_home: Any) -> Any:
    return demo_home.trial("finished", "sign 0.01", 16)


def _folder(trial: Any) -> Path:
    return Settings().trial_dir(trial.digest)


def test_counts_of_a_window_are_summed_before_the_ratio(finished: Any) -> None:
    window = run_queries.load_window(finished, last=120, steps=10)
    count_SLE = read_history(_folder(finished), first=111, last=120).count_SLE
    assert (window.first, window.last) == (111, 120)
    np.testing.assert_allclose(window.percent_LE, 100 * utilisation(count_SLE.sum(axis=0)), atol=1)


def test_window_at_the_start_is_shorter_and_without_steps_empty(finished: Any) -> None:
    assert run_queries.load_window(finished, last=3, steps=10)[:2] == (1, 3)
    assert run_queries.load_window(finished, last=9999, steps=10).percent_LE.shape == (0, 0)


def test_evaluation_load_is_percent_of_the_fair_share(finished: Any) -> None:
    percent_LE = run_queries.eval_percent(finished)
    assert percent_LE is not None
    counts_LE = read_eval_counts(_folder(finished))
    assert counts_LE is not None
    np.testing.assert_allclose(percent_LE, 100 * utilisation(counts_LE), atol=1)


@pytest.fixture
def truncated(demo_home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A finished trial with only its first 50 steps, and a function that adds the others."""
    trial = demo_home.trial("finished", "sign 0.01", 16)
    source, folder = _folder(trial), Settings(home=tmp_path).trial_dir(trial.digest)
    shutil.copytree(source, folder)
    monkeypatch.setenv("EVENLOAD_HOME", str(tmp_path))
    (folder / "expert_load" / FILE).unlink()  # it has all steps
    late = [p for room in ("steps", "expert_load") for p in parts(folder / room) if p.first > 50]
    for part in late:
        part.path.rename(part.path.with_suffix(".later"))

    def arrive() -> None:
        for part in late:
            part.path.with_suffix(".later").rename(part.path)

    return trial, arrive


def test_series_of_a_running_trial_grows(truncated: Any) -> None:
    trial, arrive = truncated
    running = replace(trial, state=TrialState.TRAINING)
    assert run_queries.load_series(running).last_step == 50
    arrive()
    grown = run_queries.load_series(running)
    assert grown.last_step == 300
    assert grown.step_B.tolist() == list(range(1, 301))


def test_ended_run_is_read_again_only_after_a_new_attempt(truncated: Any) -> None:
    trial, arrive = truncated
    assert run_queries.load_series(trial).last_step == 50
    arrive()
    assert run_queries.load_series(trial).last_step == 50
    again = replace(trial, attempt=trial.attempt + 1)
    assert run_queries.load_series(again).last_step == 300


def test_log_tail_is_the_end_of_the_file(finished: Any, demo_home: Any) -> None:
    assert run_queries.log_names(finished.digest) == ["attempt-1.log"]
    text = run_queries.log_tail(finished.digest, "attempt-1.log")
    assert len(text.splitlines()) == 30
    assert text.endswith("step  300/300  loss 1.626")
    assert run_queries.log_names(demo_home.trials("cancelled")[0].digest) == []


def test_logs_outside_the_folder_cannot_be_read(finished: Any) -> None:
    with pytest.raises(StopIteration):
        run_queries.log_tail(finished.digest, "../../evenload.db")


def test_evaluation_without_details_gives_an_empty_detail(finished: Any) -> None:
    assert run_queries.eval_detail(finished) == (Detail(), [])


def test_queries_work_without_mlflow(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_queries.mlflow_problem() is None  # a database file is always available
    monkeypatch.setenv("EVENLOAD_TRACKING_URI", "http://127.0.0.1:9")
    st.cache_data.clear()
    assert "refused" in str(run_queries.mlflow_problem())
    assert run_queries.load_series(finished).last_step == 300


def test_links_use_the_urls_of_the_settings(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_queries.ray_dashboard_url() is None
    monkeypatch.setenv("EVENLOAD_RAY_DASHBOARD_URL", "http://ray:8265")
    monkeypatch.setenv("EVENLOAD_MLFLOW_UI_URL", "http://mlflow:5000")
    assert run_queries.ray_dashboard_url() == "http://ray:8265"
    assert run_queries.mlflow_run_url(finished) == f"http://mlflow:5000/#/runs/{finished.run_id}"
