from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evenload.pipeline.client import Client
from evenload.pipeline.records.recorded_runs import recorded_run
from evenload.workers.cli import app
from tests.pipeline.records import recorded


def _run(*args: Any) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    writer = recorded.writer(tmp_path)
    writer.write(recorded.steps(1, 40))
    return tmp_path


def test_runs_are_listed_with_their_figures(home: Path) -> None:
    found = _run("runs", "--home", home)
    assert found.exit_code == 0
    run = recorded_run(home, "my-model")
    row = next(line for line in found.stdout.splitlines() if "my-model" in line)
    for shown in ("attach", "sign 0.01", "2 x 8, top 2", "40", "6.2%", "live"):
        assert shown in row
    assert f"{run.figures()['max_vio']:.2f}" in row
    documents = json.loads(_run("runs", "--home", home, "--json").stdout)
    assert [document["run_id"] for document in documents] == ["my-model"]
    assert documents[0]["figures"] == run.figures()
    assert documents[0]["state"] == "live"
    assert documents[0]["shape"]["layers"] == ["3", "5"]


def test_home_without_runs_says_how_to_record_one(tmp_path: Path) -> None:
    found = _run("runs", "--home", tmp_path)
    assert found.exit_code == 0
    assert "evenload.attach(model, name=...)" in " ".join(found.stderr.split())
    assert _run("runs", "--home", tmp_path, "--json").stdout.strip() == "[]"


@pytest.mark.parametrize("named", ["my-model", "my model"])
def test_report_is_a_page_without_a_word_on_losses(home: Path, named: str) -> None:
    html, markdown = home / "page.html", home / "page.md"
    found = _run("report", named, "--home", home, "--html", html, "--markdown", markdown, "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["run_id"] == "my-model"
    assert not (home / "evenload.db").exists()  # it needs no store
    text = markdown.read_text()
    run = recorded_run(home, "my-model")
    assert f"{run.figures()['max_vio']:.2f}" in text
    assert f"{run.figures()['max_vio_floor']:.2f}" in text
    assert "alidation" not in text
    assert html.read_text().count("<svg") >= 5


def test_report_of_a_run_without_steps_has_only_what_is_known(tmp_path: Path) -> None:
    recorded.writer(tmp_path, "empty")
    found = _run("report", "empty", "--home", tmp_path, "--html", tmp_path / "page.html")
    assert found.exit_code == 0, found.output
    assert "What is known" in (tmp_path / "page.html").read_text()


def test_client_lists_and_reads_recorded_runs(home: Path) -> None:
    client = Client(home=home)
    assert [run.name for run in client.recorded_runs()] == ["my model"]
    assert client.expert_load("my model", first=31).step_S.tolist() == list(range(31, 41))
