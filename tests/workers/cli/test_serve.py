"""`evenload serve` as a process: takes submitted sweeps, ends on SIGTERM, goes on later."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ray
Sweep = Callable[..., dict[str, Any]]


def served(evenload: Any, health: Path) -> Any:
    return evenload.start("serve", "--slots", "2", "--health-file", str(health))


def until_state(folder: Path, wanted: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with sqlite3.connect(folder / ".evenload" / "mlflow.db") as runs:
            known = runs.execute("SELECT name FROM sqlite_master WHERE name = 'runs'").fetchall()
            found = known and runs.execute("SELECT status FROM runs").fetchall()
        if found and all(status == (wanted,) for status in found) and len(found) == 3:
            return
        time.sleep(0.2)
    raise AssertionError(f"{found} in MLflow, not three times {wanted}")


def test_a_submitted_sweep_is_run_and_a_stop_ends_it_well(
    evenload: Any, sweep: Sweep, tmp_path: Path
) -> None:
    path = evenload.write("sweep.yaml", sweep())
    submitted = evenload("sweep", "submit", path, "--json")
    assert submitted.code == 0, submitted.err
    sweep_id = submitted.document["sweep_id"]
    assert evenload("sweep", "list", "--json").document[0]["trials"] == {}, "not listed yet"

    service = served(evenload, tmp_path / "healthy")
    until_state(evenload.folder, "FINISHED")
    assert time.time() - (tmp_path / "healthy").stat().st_mtime < 10
    service.terminate()
    _, log = service.communicate(timeout=60)
    assert service.returncode == 0, log
    status = json.loads(evenload("sweep", "status", sweep_id, "--json").out)
    assert status["state"] == "finished"
    assert [trial["state"] for trial in status["trials"]] == ["completed"] * 2
