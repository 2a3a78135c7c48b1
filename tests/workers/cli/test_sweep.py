"""`evenload sweep run` with a real Ray, store and MLflow."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from tests.webhook_receiver import receiving

pytestmark = pytest.mark.ray
Sweep = Callable[..., dict[str, Any]]


@pytest.mark.slow
def test_a_trial_that_raises_fails_and_the_sweep_continues(
    evenload: Any, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = {"train.learning_rate": [0.003, 1e18]}
    tree = sweep(axes=axes, train={"grad_clip": 1e18}, balancer={"kind": "sign"})
    with receiving() as webhook:
        monkeypatch.setenv("EVENLOAD_ALERT_URL", webhook.url)
        ended = evenload("sweep", "run", evenload.write("sweep.yaml", tree), "--json")
    assert ended.code == 1
    assert "a-secret-path" not in ended.out + ended.err
    alarm = {alarm["kind"]: alarm["text"] for alarm in webhook.got}["sweep-failed"]
    assert "1 of 2 trials failed" in alarm
    good, bad = ended.document["trials"]
    assert (good["state"], bad["state"]) == ("completed", "failed")
    assert "Traceback" in bad["error"]
    assert "lower train.learning_rate" in bad["error"]
    assert "lower train.learning_rate" in ended.err
    with sqlite3.connect(evenload.folder / ".evenload" / "mlflow.db") as database:
        assert ("FAILED",) in database.execute("SELECT status FROM runs").fetchall()
