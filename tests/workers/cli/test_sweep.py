"""`evenload sweep run` on a real Ray, a real store and a real MLflow."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ray
README = Path(__file__).resolve().parents[3] / "README.md"
TIMED = {"train_seconds", "tokens_per_second"}
Sweep = Callable[..., dict[str, Any]]


def figures(document: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Every trial's result without what depends on the clock."""
    return {
        trial["digest"]: {k: v for k, v in trial["result"].items() if k not in TIMED}
        for trial in document["trials"]
    }


def mlflow_rows(home: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(home / ".evenload" / "mlflow.db") as database:
        return database.execute(query).fetchall()


def test_a_sweep_ends_with_figures_and_runs_once(evenload: Any, sweep: Sweep) -> None:
    path = evenload.write("sweep.yaml", sweep())
    first = evenload("sweep", "run", path, "--json", "--slots", "2")
    assert first.code == 0, first.err
    trials = first.document["trials"]
    assert [trial["state"] for trial in trials] == ["completed"] * 2
    for trial in trials:
        result = trial["result"]
        assert result["count_check"] == 1
        assert result["steps"] == 24
        assert 0 < result["val_bits_per_byte"] < 5.1
        assert result["max_vio_floor"] > 0
        assert result["tracking_errors"] == 0
    assert first.document["recommended"]["label"] == "sign 0.01"

    again = evenload("sweep", "run", path, "--json")
    assert figures(again.document) == figures(first.document)
    assert [trial["attempt"] for trial in again.document["trials"]] == [
        trial["attempt"] for trial in trials
    ]
    runs = mlflow_rows(evenload.folder, "SELECT status FROM runs")
    assert runs == [("FINISHED",)] * 3, "one parent and one child a trial"
    assert_status_and_list_show(evenload, first.document["sweep_id"])
    assert_readme_finds_the_answer(evenload.folder, first.document["recommendation"])


def assert_readme_finds_the_answer(folder: Path, sentence: str) -> None:
    """The README's own lines, run where a user would run them."""
    section = README.read_text().split("### Get the answer out")[1].split("\n### ")[0]
    client, mlflow = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for code, wanted in ((client, sentence), (mlflow, "sign 0.01")):
        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
        )
        assert wanted in ended.stdout
    (query,) = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    with sqlite3.connect(folder / ".evenload" / "evenload.db") as database:
        rows = database.execute(query).fetchall()
    assert {row[:2] for row in rows} == {("none", "completed"), ("sign 0.01", "completed")}
    assert all(isinstance(figure, float) for row in rows for figure in row[2:])


@pytest.mark.slow
def test_a_trial_that_raises_fails_and_the_sweep_goes_on(evenload: Any, sweep: Sweep) -> None:
    axes = {"train.learning_rate": [0.003, 1e30]}
    tree = sweep(axes=axes, train={"grad_clip": 1e30}, balancer={"kind": "sign"})
    ended = evenload("sweep", "run", evenload.write("sweep.yaml", tree), "--json")
    assert ended.code == 1
    good, bad = ended.document["trials"]
    assert (good["state"], bad["state"]) == ("completed", "failed")
    assert "Traceback" in bad["error"]
    assert "lower train.learning_rate" in bad["error"]
    assert "lower train.learning_rate" in ended.err
    statuses = mlflow_rows(evenload.folder, "SELECT status FROM runs ORDER BY status")
    assert ("FAILED",) in statuses


def assert_status_and_list_show(evenload: Any, sweep_id: str) -> None:
    assert evenload("sweep", "status", sweep_id, "--json").document["state"] == "finished"
    listed = evenload("sweep", "list", "--json").document
    assert [(row["sweep_id"], row["trials"]) for row in listed] == [(sweep_id, {"completed": 2})]
    shown = evenload("sweep", "status", sweep_id)
    assert "sign 0.01" in shown.out
    assert "bits per byte" in shown.out
