from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from evenload.dashboard import controls
from evenload.dashboard.controls import VERBS, applicable
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import Order, SweepState, TrialRecord, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from tests.dashboard.page_figures import figures

Open = Callable[..., AppTest]


@pytest.fixture
def own_home(
    demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, render_in: Open
) -> Settings:
    """A home with a copy of the demo's store, because the verbs change it."""
    home = tmp_path / "own"
    home.mkdir()
    shutil.copy(demo.home / "evenload.db", home)
    monkeypatch.setenv("EVENLOAD_HOME", str(home))
    monkeypatch.setenv("EVENLOAD_DASHBOARD_CONTROLS", "true")
    return Settings()


def _state(settings: Settings, sweep_id: str) -> SweepState:
    store = SweepStore(settings.store_url)
    try:
        return store.sweep(sweep_id).state
    finally:
        store.close()


def _trial(settings: Settings, digest: str) -> TrialRecord:
    store = SweepStore(settings.store_url)
    try:
        return store.trial(digest)
    finally:
        store.close()


def _press(page: AppTest, label: str) -> AppTest:
    (button,) = [button for button in page.button if button.label == label]
    return button.click().run()


def test_controls_are_off_by_default(open_page: Open, demo: Any) -> None:
    labels = {verb.label for verb in VERBS.values()}
    for page in (
        open_page("sweep", sweep=demo.ids["running"]),
        open_page("sweeps"),
        open_page("run", run=demo.trials("running")[0].digest),
    ):
        assert not labels & {button.label for button in page.button}
    start = open_page("sweeps", view="Start a sweep")
    (submit,) = [button for button in start.button if button.label == "Submit"]
    assert submit.disabled
    assert any("EVENLOAD_DASHBOARD_CONTROLS" in info.value for info in start.info)


def test_verbs_change_the_state_and_the_offered_verbs(
    own_home: Settings, demo: Any, render_in: Open
) -> None:
    sweep_id = demo.ids["running"]
    page = _press(render_in("sweep", sweep=sweep_id), "Pause")
    assert not page.exception
    assert _state(own_home, sweep_id) is SweepState.PAUSED
    assert "Pause" not in [button.label for button in page.button]
    page = _press(page, "Resume")
    assert _state(own_home, sweep_id) is SweepState.ACTIVE
    page = _press(page, "Retry failed")
    assert "Retry failed" not in [button.label for button in page.button]
    page = _press(page, "Yes, stop")
    assert _state(own_home, sweep_id) is SweepState.STOPPING
    _press(page, "Yes, cancel")
    assert _state(own_home, sweep_id) is SweepState.CANCELLED


def test_trial_is_steered_on_the_page_of_the_run(
    own_home: Settings, demo: Any, render_in: Open
) -> None:
    waiting, failed = (
        next(t for t in demo.trials("running") if t.state is state)
        for state in (TrialState.QUEUED, TrialState.FAILED)
    )
    page = render_in("run", run=waiting.digest)
    for label, state, ordered in [
        ("Pause", TrialState.QUEUED, Order.PAUSE),
        ("Resume", TrialState.QUEUED, None),
        ("Stop", TrialState.STOPPED, None),
        ("Resume", TrialState.QUEUED, None),
        ("Cancel", TrialState.CANCELLED, Order.CANCEL),  # so that no new sweep revives it
    ]:
        page = _press(page, label)
        assert not page.exception
        trial = _trial(own_home, waiting.digest)
        assert (trial.state, trial.ordered) == (state, ordered), label
    _press(render_in("run", run=failed.digest), "Retry failed")
    assert _trial(own_home, failed.digest).state is TrialState.QUEUED
    others = [t for t in demo.trials("running") if t.digest not in (waiting.digest, failed.digest)]
    assert [_trial(own_home, t.digest).state for t in others] == [t.state for t in others]


def test_form_submits_the_sweep_of_the_dry_run(own_home: Settings, render_in: Open) -> None:
    page = render_in("sweeps", view="Start a sweep")
    page.text_input[0].set_value("from-the-form").run()
    assert figures(page)["Trials"] == "10"
    page = _press(page, "Submit")
    assert not page.exception
    store = SweepStore(own_home.store_url)
    sweep = next(sweep for sweep in store.sweeps() if sweep.name == "from-the-form")
    store.close()
    assert len(sweep.spec["axes"]["balancer"]) == 5
    assert not sweep.is_expanded


def test_verbs_without_effect_are_not_offered(demo: Any) -> None:
    store = SweepStore(Settings(home=demo.home).store_url)
    offered = {
        name: applicable(store.sweep(sweep_id), store.counts(sweep_id).get(TrialState.FAILED, 0))
        for name, sweep_id in demo.ids.items()
    }
    store.close()
    assert offered["running"] == ["pause", "stop", "cancel", "retry"]
    assert offered["finished"] == ["retry"]
    assert offered["searched"] == offered["cancelled"] == []


def test_a_login_is_asked_for_before_anything_is_shown(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENLOAD_DASHBOARD_LOGIN", "true")
    page = open_page("sweeps")
    assert not page.exception
    assert [button.label for button in page.button] == ["Log in"]
    assert not page.dataframe


@pytest.mark.parametrize(
    ("told", "operators", "enabled"),
    [
        ({"email": "Anna@x.org", "email_verified": True}, "", True),
        ({"email": "Anna@x.org", "email_verified": True}, "bob@x.org, anna@x.org", True),
        ({"email": "anna@x.org", "email_verified": False}, "anna@x.org", False),
        ({"email": "eve@x.org", "email_verified": True}, "anna@x.org", False),
        ({}, "anna@x.org", False),
    ],
)
def test_operators_steer_and_viewers_only_look(
    told: dict[str, Any], operators: str, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENLOAD_DASHBOARD_LOGIN", "true")
    monkeypatch.setenv("EVENLOAD_OPERATORS", operators)
    monkeypatch.setattr(controls.st, "user", SimpleNamespace(to_dict=lambda: told))
    assert not controls.are_enabled()
    monkeypatch.setenv("EVENLOAD_DASHBOARD_CONTROLS", "true")
    assert controls.are_enabled() is enabled
