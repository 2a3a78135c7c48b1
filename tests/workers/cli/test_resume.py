"""`evenload sweep run` killed and run again: nothing is lost, nothing repeated."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ray
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


def test_a_sweep_killed_half_way_goes_on_and_repeats_nothing(evenload: Any, sweep: Sweep) -> None:
    long = sweep(train={"steps": 150}, runtime={"checkpoint_every": 10})
    path = evenload.write("sweep.yaml", long)
    process = evenload.start("sweep", "run", path, "--slots", "1")
    checkpoints = evenload.folder / ".evenload" / "trials"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*/checkpoints/step-*.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    resumed = evenload("sweep", "run", path, "--json", "--slots", "1")
    assert resumed.code == 0, resumed.err
    undisturbed = evenload(
        "sweep", "run", path, "--json", "--slots", "2", "--home", str(evenload.folder / "other")
    )
    assert figures(resumed.document) == figures(undisturbed.document)
    assert max(trial["attempt"] for trial in resumed.document["trials"]) > 2
    doubled = mlflow_rows(
        evenload.folder,
        "SELECT key, step FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1",
    )
    assert doubled == []
