"""No page reads trials that it does not show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from evenload.dashboard import page_parts
from evenload.dashboard.record_tables import progress
from evenload.pipeline import settings as settings_module
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState
from evenload.pipeline.store import reading
from evenload.pipeline.store.sweep_store import SweepStore

Open = Callable[..., AppTest]


@pytest.fixture
def read(demo_home: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The digests of the trials that were read from the store since the start of the test."""
    found: set[str] = set()
    build = reading._trial

    def noted(row: Any, *more: Any) -> Any:
        found.add(row.digest)
        return build(row, *more)

    monkeypatch.setattr(reading, "_trial", noted)
    st.cache_resource.clear()
    yield found
    st.cache_resource.clear()


@pytest.mark.parametrize("name", ["sweeps", "theory", "glossary"])
def test_pages_without_trials_read_none(open_page: Open, read: set[str], name: str) -> None:
    assert not open_page(name).exception
    assert read == set()


@pytest.mark.parametrize("name", ["sweep", "run", "compare", "cost"])
def test_pages_of_a_sweep_read_its_trials_alone(
    open_page: Open, read: set[str], demo: Any, name: str
) -> None:
    own = [trial.digest for trial in demo.trials("finished")]
    read.clear()
    asked = {"sweep": demo.ids["finished"], "run": own[0], "runs": f"{own[0]},{own[1]}"}
    key = {"run": "run", "compare": "runs"}.get(name, "sweep")
    assert not open_page(name, **{key: asked[key]}).exception
    assert set(own) >= read != set()


def test_the_cluster_page_reads_trials_that_a_worker_holds(
    open_page: Open, read: set[str], demo: Any
) -> None:
    held = {trial.digest for trial in demo.trials("running") if trial.state.is_held}
    read.clear()
    assert not open_page("cluster").exception
    assert read == held


def test_an_overview_counts_as_the_trials_themselves(demo: Any) -> None:
    store = SweepStore(f"sqlite:///{demo.home / 'evenload.db'}")
    for one in store.overviews():
        trials = store.trials(one.sweep.sweep_id)
        assert one.trials == len(trials)
        assert one.failed == sum(trial.state is TrialState.FAILED for trial in trials)
        assert one.running == sum(trial.state.is_held for trial in trials)
        assert one.done == pytest.approx(progress(trials))
        assert one.started_at == min((t.started_at for t in trials if t.started_at), default=None)
        assert one.ended_at == max((t.finished_at for t in trials if t.finished_at), default=None)
    assert store.sweeps_of(["nobody"]) == []
    store.close()


def test_a_page_reads_its_settings_once(
    open_page: Open, demo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(settings_module, "Settings", lambda: made.append(1) or Settings())
    monkeypatch.setenv("EVENLOAD_OPERATORS", "another-environment")
    assert not open_page("run", run=demo.trials("finished")[0].digest, view="Load").exception
    assert len(made) == 1


def test_the_figures_of_a_run_do_not_wait_for_the_audit(
    open_page: Open, demo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    figures, note = page_parts.metrics, page_parts.audit_note
    monkeypatch.setattr(page_parts, "metrics", lambda *a: seen.append("figures") or figures(*a))
    monkeypatch.setattr(page_parts, "audit_note", lambda *a: seen.append("audit") or note(*a))
    assert not open_page("run", run=demo.trials("finished")[0].digest).exception
    assert seen == ["figures", "audit"]
