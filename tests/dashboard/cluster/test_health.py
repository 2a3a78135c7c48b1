from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from evenload.dashboard.cluster.health import (
    Level,
    coordinator_check,
    disk_check,
    mlflow_check,
    store_check,
    workers_check,
)
from evenload.pipeline.states import (
    AttemptState,
    PresenceRecord,
    Snapshot,
    SweepState,
    SweepStatus,
    TrialState,
    TrialStatus,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _seen(role: str, seconds: float) -> PresenceRecord:
    return PresenceRecord(f"{role}-1", role, NOW, NOW - timedelta(seconds=seconds), {})


def _snapshot(state: SweepState | None = None, lease: float | None = None) -> Snapshot:
    sweeps = () if state is None else (SweepStatus("s", state, True, 1),)
    trial = TrialStatus(
        digest="d",
        state=TrialState.TRAINING,
        attempt=1,
        failures=0,
        may_run=True,
        max_retries=2,
        attempt_state=AttemptState.RUNNING,
        worker="w",
        lease_until=NOW + timedelta(seconds=lease or 0),
        exit_reason=None,
    )
    return Snapshot(NOW, sweeps, () if lease is None else (trial,))


@pytest.mark.parametrize(
    ("seconds", "state", "level"),
    [
        (5, SweepState.ACTIVE, Level.OK),
        (60, SweepState.ACTIVE, Level.WARNING),
        (600, SweepState.ACTIVE, Level.DOWN),
        (None, SweepState.ACTIVE, Level.DOWN),
        (None, SweepState.STOPPING, Level.DOWN),
        (None, SweepState.PAUSED, Level.OK),
        (None, None, Level.OK),
    ],
)
def test_coordinator_must_be_alive_if_a_sweep_needs_one(
    seconds: float | None, state: SweepState | None, level: Level
) -> None:
    present = [] if seconds is None else [_seen("coordinator", seconds)]
    check = coordinator_check(present, _snapshot(state))
    assert check.level is level
    assert ("evenload serve" in check.remedy) == (level is not Level.OK)


@pytest.mark.parametrize(
    ("seconds", "lease", "level"),
    [(5, 10, Level.OK), (60, 10, Level.WARNING), (5, -1, Level.DOWN), (600, None, Level.OK)],
)
def test_worker_with_a_trial_must_send_heartbeats(
    seconds: float, lease: float | None, level: Level
) -> None:
    check = workers_check([_seen("train", seconds)], _snapshot(SweepState.ACTIVE, lease))
    assert check.level is level
    assert bool(check.remedy) == (level is not Level.OK)


def test_every_problem_has_a_remedy() -> None:
    checks: list[Any] = [
        store_check("sqlite", 3.0),
        mlflow_check("http://mlflow", "Connection refused", 0),
        mlflow_check("http://mlflow", None, 7),
        disk_check("/data", 2e9),
        disk_check("/data", 5e8),
    ]
    assert [check.level for check in checks] == [
        Level.WARNING,
        Level.DOWN,
        Level.WARNING,
        Level.WARNING,
        Level.DOWN,
    ]
    assert all(check.remedy for check in checks)
    assert disk_check("/data", 1e12) == ("Disk", Level.OK, "1,000.0 GB free at /data", "")
