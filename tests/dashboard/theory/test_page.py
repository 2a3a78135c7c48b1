from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from streamlit.testing.v1 import AppTest

from evenload.dashboard.theory import queries as simulation_queries
from evenload.dashboard.theory.page import _rules
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.simulation import SimulationSpec
from evenload.workers.simulation.run import simulate
from tests.dashboard.page_figures import figures

Open = Callable[..., AppTest]


@pytest.fixture
def controlled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENLOAD_DASHBOARD_CONTROLS", "true")


def test_without_controls_the_page_starts_nothing(render_in: Open) -> None:
    page = render_in("theory")
    assert not page.exception
    assert "may not start simulations" in page.info[0].value
    assert not page.button
    assert not page.select_slider


@pytest.mark.usefixtures("controlled")
def test_form_starts_a_simulation_that_can_be_cancelled(render_in: Open) -> None:
    page = render_in("theory")
    assert not page.exception
    assert "No simulation yet" in page.info[0].value
    page.select_slider[0].set_value(64)
    page.button[0].click().run()
    assert not page.exception
    digest = page.query_params["simulation"]
    assert simulation_queries.simulations().spec(digest).num_experts == 64
    (cancel,) = [button for button in page.button if button.label == "Cancel"]
    cancel.click().run()
    assert not page.exception
    assert page.code[0].value == "cancelled"


def test_page_shows_a_finished_simulation(render_in: Open, drawn: Any, settings: Settings) -> None:
    folder = settings.root / "simulations" / "abc123"
    _simulate_into(folder)
    page = render_in("theory", simulation="abc123")
    assert not page.exception
    assert list(drawn(page)) == ["simulated-max-vio", "dual-descent", "regret", "tie-spectrum"]
    shown = figures(page)
    assert shown["Most even rule"] == "self_tuned"
    assert page.dataframe[0].value.rule.tolist() == ["none", "self_tuned"]
    assert len(page.dataframe[1].value) == 8


def _simulate_into(folder: Path) -> None:
    """Writes the files that `evenload simulate` would write."""
    folder.mkdir(parents=True)
    small: dict[str, Any] = {"tokens": 128, "num_experts": 8, "top_k": 2, "steps": 40, "seeds": 1}
    asked: dict[str, Any] = {"streams": {"still": {"kind": "gaussian"}}}
    asked |= {"rules": [{"kind": "none"}, {"kind": "self_tuned"}]}
    (folder / "spec.yaml").write_text(yaml.safe_dump(small | asked))
    result = simulate(SimulationSpec.model_validate(small | asked), theory=True)
    result.write_parquet(folder / "history.parquet")
    (folder / "result.json").write_text(json.dumps(result.to_dict()))


@pytest.mark.usefixtures("controlled")
def test_failed_simulation_is_explained_and_can_be_repeated(
    render_in: Open, settings: Settings
) -> None:
    folder = settings.root / "simulations" / "abc123"
    folder.mkdir(parents=True)
    spec = "{streams: {still: {kind: gaussian}}, rules: [{kind: none}]}"
    (folder / "spec.yaml").write_text(spec)
    (folder / "log").write_text("Killed\n")
    page = render_in("theory", simulation="abc123")
    assert not page.exception
    assert page.code[0].value == "Killed"
    assert [button.label for button in page.button][-1] == "Run it again"


@pytest.mark.usefixtures("controlled")
def test_bad_sizes_are_explained(render_in: Open) -> None:
    page = render_in("theory")
    page.select_slider[0].set_value(8)
    page.number_input[0].set_value(8)
    page.button[0].click().run()
    assert not page.exception
    assert "top_k=8 leaves nothing to balance" in page.warning[0].value


def test_rules_with_a_step_size_get_all_step_sizes() -> None:
    rules = _rules(["none", "sign", "smebu"], [0.01, 0.1], "inverse")
    assert rules == [
        {"kind": "none"},
        {"kind": "sign", "step_size": [0.01, 0.1], "schedule": "inverse"},
        {"kind": "smebu", "step_size": [0.01, 0.1]},
    ]


@pytest.mark.usefixtures("controlled")
def test_recorded_run_has_its_own_size(render_in: Open, settings: Settings) -> None:
    scores = np.zeros((40, 2, 64, 8), np.float32)
    run = settings.root / "runs" / "theirs"
    run.mkdir(parents=True)
    np.savez(run / "scores.npz", score_NLTE=scores, bias_NLE=scores[:, :, 0], top_k=2)
    page = render_in("theory")
    page.selectbox[0].select("recorded: theirs")
    page.button[0].click().run()
    assert not page.exception
    digest = page.query_params["simulation"]
    simulation_queries.simulations().cancel(digest)
    spec = simulation_queries.simulations().spec(digest)
    assert (spec.steps, spec.seeds, spec.tokens, spec.num_experts, spec.top_k) == (40, 2, 64, 8, 2)
    assert spec.model_dump()["streams"]["recorded: theirs"]["kind"] == "recorded"
