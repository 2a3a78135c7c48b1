from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from evenload.pipeline.settings import Settings
from evenload.pipeline.store.sweep_store import SweepStore
from tests.dashboard.demo_home import be_present
from tests.dashboard.page_figures import figures

Open = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def present(demo: Any) -> None:
    """Announces the coordinator and the workers again: other tests may have taken long."""
    store = SweepStore(Settings(home=demo.home).store_url)
    be_present(store, demo.ids["running"])
    store.close()
    st.cache_data.clear()


def _cards(page: AppTest) -> dict[str, str]:
    """The level by part, read from the badges beside the names."""
    texts = [str(block.value) for block in page.markdown]
    parts = ("SQL store", "Coordinator", "Workers", "MLflow", "Disk")
    found = {}
    for part in parts:
        if f"**{part}**" not in texts:
            continue
        after = texts[texts.index(f"**{part}**") + 1]
        found[part] = next(level for level in ("ok", "warning", "down") if level in after)
    return found


def test_page_shows_processes_leases_and_queue(open_page: Open, demo: Any) -> None:
    page = open_page("cluster")
    assert not page.exception
    shown = figures(page)
    assert shown == {
        "Nodes": "2",
        "Training slots": "2 of 4 free",
        "Wait for training": "3",
        "Wait for evaluation": "0",
    }
    queue, leases, actors, nodes, deeds = (table.value for table in page.dataframe)
    assert queue.Sweep.tolist() == [demo.ids["submitted"], demo.ids["running"]]
    assert queue.Train.tolist() == [0, 2]
    assert leases.Worker.tolist() == ["worker-b:gpu1", "worker-b:gpu0"]
    assert leases.Lease.str.endswith("left").all()
    assert sorted(actors.Role) == ["coordinator", "train", "train"]
    assert nodes.State.tolist() == ["alive", "alive", "dead"]
    assert demo.ids["running"] in set(deeds.Sweep)
    assert deeds.Who.str.contains("@").all()


def test_unreachable_mlflow_is_red_and_the_rest_is_shown(
    demo_home: Any, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENLOAD_TRACKING_URI", "http://127.0.0.1:9")
    st.cache_data.clear()
    page = open_page("cluster")
    assert not page.exception
    assert _cards(page)["MLflow"] == "down"
    assert any("trials continue" in block.value for block in page.markdown)
    assert len(page.dataframe) == 5


def test_unreachable_store_is_red_without_a_traceback(render_in: Open) -> None:
    page = render_in("cluster")
    assert not page.exception
    found = _cards(page)
    assert found["SQL store"] == "down"
    assert "Coordinator" not in found
    assert not page.dataframe


def test_empty_store_is_no_problem(render_in: Open, settings: Settings) -> None:
    store = SweepStore(settings.store_url)
    store.migrate()
    store.close()
    page = render_in("cluster")
    assert not page.exception
    assert set(_cards(page).values()) <= {"ok", "warning"}  # the disk of a test machine may be low
    assert [caption.value for caption in page.caption][-5:] == [
        "Nothing waits.",
        "No trial is running.",
        "There are none.",
        "No running coordinator has reported its nodes.",
        "Nothing yet.",
    ]
