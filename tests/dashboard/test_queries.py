from __future__ import annotations

from typing import Any

import pytest
import streamlit as st

from evenload.dashboard import queries
from evenload.pipeline.errors import SpecError


@pytest.fixture
def finished(demo_home: Any) -> Any:
    return demo_home.trial("finished", "sign 0.01", 16)


def test_sweeps_have_their_trials(demo_home: Any) -> None:
    counts = {one.sweep.name: one.trials for one in queries.overviews()}
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


def test_rows_do_not_need_mlflow(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENLOAD_TRACKING_URI", "http://127.0.0.1:9")
    st.cache_data.clear()
    assert queries.trial(finished.digest).label == "sign 0.01"
