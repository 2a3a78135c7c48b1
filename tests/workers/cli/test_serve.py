"""`evenload serve` with a real Ray, store and MLflow, and the records of its sweep."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.ray
README = Path(__file__).resolve().parents[3] / "pipeline" / "README.md"
TIMED = {"train_seconds", "tokens_per_second"}
Sweep = Callable[..., dict[str, Any]]
# What one user submits beside the sweep of another.
HARMFUL: dict[str, dict[str, Any]] = {
    "byte-ff": {"kind": "files", "glob": "bad.jsonl"},
    "broken-parquet": {"kind": "files", "glob": "bad.parquet"},
    "much": {"kind": "synthetic", "num_tokens": 10**12},
}
PAUSED_FOR = {
    "byte-ff": "bad.jsonl:1: not a JSON object",
    "broken-parquet": "bad.parquet: not a whole parquet file",
    "much": "num_tokens=1000000000000",
}


@pytest.mark.slow
def test_a_submitted_sweep_is_run_once_and_a_stop_ends_the_service_well(
    evenload: Any, sweep: Sweep, tmp_path: Path
) -> None:
    path, healthy = evenload.write("sweep.yaml", sweep()), tmp_path / "healthy"
    submitted = evenload("sweep", "submit", path, "--json")
    assert submitted.code == 0, submitted.err
    sweep_id = submitted.document["sweep_id"]
    assert evenload("sweep", "list", "--json").document[0]["trials"] == {}, "not listed yet"

    service = evenload.start("serve", "--slots", "2", "--health-file", str(healthy))
    until_runs_are(evenload.folder, ["FINISHED"] * 3)  # one parent and one child a trial
    assert time.time() - healthy.stat().st_mtime < 10
    service.terminate()
    _, log = service.communicate(timeout=60)
    assert service.returncode == 0, log

    served = evenload("sweep", "status", sweep_id, "--json").document
    assert served["state"] == "finished"
    assert_figures_make_sense(served["trials"])
    again = evenload("sweep", "run", path, "--json")
    assert again.code == 0, again.err
    assert again.document["sweep_id"] == sweep_id
    assert figures(again.document) == figures(served)
    assert attempts(again.document) == attempts(served)
    assert again.document["named"] == {}, "one seed"
    until_runs_are(evenload.folder, ["FINISHED"] * 3)
    assert_status_and_list_show(evenload, sweep_id)
    assert_readme_finds_the_answer(evenload.folder, again.document["answer"][0])


@pytest.mark.slow
def test_a_service_that_is_killed_leaves_no_process_behind(
    evenload: Any, sweep: Sweep, tmp_path: Path
) -> None:
    evenload("sweep", "submit", evenload.write("sweep.yaml", sweep()))
    service = evenload.start("serve", "--slots", "2", "--health-file", str(tmp_path / "healthy"))
    until_attempts(evenload.folder)
    left = psutil.Process(service.pid).children(recursive=True)
    assert len(left) > 3, "the coordinator, the process that lists, Ray and its workers"
    service.kill()
    alive = psutil.wait_procs(left, timeout=60)[1]
    assert [" ".join(process.cmdline())[:100] for process in alive] == []


def until_attempts(folder: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        with (
            suppress(sqlite3.OperationalError),
            sqlite3.connect(folder / ".evenload/evenload.db") as store,
        ):
            if store.execute("SELECT count(*) FROM attempt").fetchone() != (0,):
                return
        time.sleep(0.2)
    raise AssertionError("no trial was started")


@pytest.mark.slow
def test_harmful_sweeps_are_paused_and_the_one_beside_them_completes(
    evenload: Any, sweep: Sweep, tmp_path: Path
) -> None:
    harmful = {name: submit(evenload, sweep(), name, data) for name, data in HARMFUL.items()}
    path = evenload.write("sweep.yaml", sweep())
    evenload("sweep", "submit", path)
    service = evenload.start("serve", "--slots", "2", "--health-file", str(tmp_path / "healthy"))
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        rows = {row["sweep_id"]: row for row in evenload("sweep", "list", "--json").document}
        if {row["state"] for row in rows.values()} == {"paused", "finished"}:
            break
        time.sleep(1)
    notes = {name: rows[its_id]["note"] for name, its_id in harmful.items()}
    assert [name for name, words in PAUSED_FOR.items() if words not in str(notes[name])] == []
    assert service.poll() is None
    service.terminate()
    _, log = service.communicate(timeout=60)
    assert service.returncode == 0, log


def submit(evenload: Any, tree: dict[str, Any], name: str, data: dict[str, Any]) -> str:
    base = tree["base"] | {"data": data, "model": tree["base"]["model"] | {"vocab_size": 256}}
    (evenload.folder / "bad.jsonl").write_bytes(b'{"text": "\xff"}\n')
    (evenload.folder / "bad.parquet").write_bytes(b"PAR1")
    path = evenload.write(f"{name}.yaml", tree | {"name": name, "base": base})
    return str(evenload("sweep", "submit", path, "--json").document["sweep_id"])


def until_runs_are(folder: Path, wanted: list[str]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        with sqlite3.connect(folder / ".evenload" / "mlflow.db") as runs:
            known = runs.execute("SELECT name FROM sqlite_master WHERE name = 'runs'").fetchall()
            # Sweeps that are paused have runs, too, which are not over.
            query = "SELECT status FROM runs WHERE status != 'RUNNING'"
            rows = runs.execute(query).fetchall() if known else []
        if [status for (status,) in rows] == wanted:
            return
        time.sleep(0.2)
    raise AssertionError(f"{rows} in MLflow, not {wanted}")


def assert_figures_make_sense(trials: list[dict[str, Any]]) -> None:
    assert [trial["state"] for trial in trials] == ["completed"] * 2
    for trial in trials:
        result = trial["result"]
        assert result["count_check"] == 1
        assert result["steps"] == 24
        assert 0 < result["val_bits_per_byte"] < 5.1
        assert result["max_vio_floor"] > 0
        assert result["tracking_errors"] == 0


def figures(document: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The result of every trial without figures that depend on time."""
    return {
        trial["digest"]: {k: v for k, v in trial["result"].items() if k not in TIMED}
        for trial in document["trials"]
    }


def attempts(document: dict[str, Any]) -> list[int]:
    return [trial["attempt"] for trial in document["trials"]]


def assert_status_and_list_show(evenload: Any, sweep_id: str) -> None:
    assert evenload("sweep", "status", sweep_id, "--json").document["state"] == "finished"
    listed = evenload("sweep", "list", "--json").document
    assert [(row["sweep_id"], row["trials"]) for row in listed] == [(sweep_id, {"completed": 2})]
    shown = evenload("sweep", "status", sweep_id)
    assert "sign 0.01" in shown.out
    assert "bits per byte" in shown.out


def assert_readme_finds_the_answer(folder: Path, sentence: str) -> None:
    """Runs the lines of the README where a user would run them."""
    section = README.read_text().split("## Get the answer out")[1].split("\n## ")[0]
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
