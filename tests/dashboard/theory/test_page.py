from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.simulation import SimulationSpec
from evenload.workers.simulation.run import simulate
from tests.dashboard.page_figures import figures

Open = Callable[..., AppTest]


@pytest.fixture
def folder(settings: Settings) -> Path:
    return settings.root / "simulations" / "small"


def _simulate_into(folder: Path, theory: bool = True) -> None:
    small: dict[str, Any] = {"tokens": 128, "num_experts": 8, "top_k": 2, "steps": 40, "seeds": 1}
    small |= {"streams": {"still": {"kind": "gaussian"}}}
    small |= {"rules": [{"kind": "none"}, {"kind": "self_tuned"}]}
    simulate(SimulationSpec.model_validate(small), theory=theory).write(folder)


@pytest.mark.parametrize("controls", ["true", "false"])
def test_the_page_starts_nothing_and_names_the_command(
    render_in: Open, monkeypatch: pytest.MonkeyPatch, controls: str
) -> None:
    monkeypatch.setenv("EVENLOAD_DASHBOARD_CONTROLS", controls)
    page = render_in("theory")
    assert not page.exception
    assert "No simulation yet" in page.info[0].value
    assert page.code[0].value.startswith("evenload simulate SIMULATION.yaml --check theory --out")
    assert not [*page.button, *page.select_slider, *page.number_input]


def test_page_shows_a_folder_that_the_command_wrote(
    render_in: Open, drawn: Any, folder: Path
) -> None:
    _simulate_into(folder)
    page = render_in("theory", simulation="small")
    assert not page.exception
    assert set(drawn(page)) == {"simulated-max-vio", "dual-descent", "regret", "tie-spectrum"}
    shown = figures(page)
    assert shown["Most even rule"] == "self_tuned"
    assert page.dataframe[0].value.rule.tolist() == ["none", "self_tuned"]
    assert len(page.dataframe[1].value) == 8


def test_without_the_theory_its_rules_are_shown(render_in: Open, drawn: Any, folder: Path) -> None:
    _simulate_into(folder, theory=False)
    page = render_in("theory")
    assert not page.exception
    assert list(drawn(page)) == ["simulated-max-vio"]
    assert "--check theory" in page.info[0].value


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"spec": {"steps": "x"}})])
def test_a_damaged_result_is_named(render_in: Open, folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(text)
    page = render_in("theory")
    assert not page.exception
    assert "small/result.json cannot be read" in page.warning[0].value


def test_a_missing_history_is_named(render_in: Open, folder: Path) -> None:
    _simulate_into(folder)
    (folder / "history.parquet").unlink()
    page = render_in("theory")
    assert not page.exception
    assert "small/history.parquet cannot be read" in page.warning[0].value
