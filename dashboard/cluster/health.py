"""Whether each part does its work, and what to do where it does not. Pure.

Seconds since somebody was seen are by the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from evenload.pipeline.figures.wording import duration
from evenload.pipeline.states import PresenceRecord, Snapshot, SweepState

COORDINATOR = "coordinator"
QUIET_SECONDS = 45.0  # everybody says every 10 to 15 seconds that they are there
GONE_SECONDS = 120.0
SLOW_STORE_SECONDS = 1.0
LOW_DISK_BYTES, NO_DISK_BYTES = 5e9, 1e9


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    DOWN = "down"


class Check(NamedTuple):
    """One part. `remedy` is empty where it is well."""

    part: str
    level: Level
    detail: str
    remedy: str = ""


def store_check(where: str, seconds: float) -> Check:
    """Of a store that answered, after how long."""
    if seconds > SLOW_STORE_SECONDS:
        remedy = "look at the database's load and its disk; pages read it every few seconds"
        return Check("SQL store", Level.WARNING, f"answers after {seconds:.1f} s", remedy)
    return Check("SQL store", Level.OK, f"answers in {1000 * seconds:.0f} ms: {where}")


def store_down(problem: str) -> Check:
    return Check(
        "SQL store", Level.DOWN, problem, "start the database, or correct EVENLOAD_DATABASE_URL"
    )


def coordinator_check(present: Sequence[PresenceRecord], snapshot: Snapshot) -> Check:
    """Somebody must look after sweeps that have something left to do."""
    left = [sweep for sweep in snapshot.sweeps if is_going(sweep.state)]
    ages = sorted(age(one, snapshot.taken_at) for one in present if one.role == COORDINATOR)
    if ages and ages[0] <= QUIET_SECONDS:
        more = f", {len(ages)} in all" if len(ages) > 1 else ""
        return Check("Coordinator", Level.OK, f"seen {duration(ages[0])} ago{more}")
    if not left:
        return Check("Coordinator", Level.OK, "none is here, and no sweep needs one")
    waiting = f"{len(left)} sweeps wait" if len(left) > 1 else "a sweep waits"
    remedy = "start `evenload serve`, or `evenload sweep run ID` for one sweep"
    if ages and ages[0] <= GONE_SECONDS:
        return Check("Coordinator", Level.WARNING, f"quiet for {duration(ages[0])}", remedy)
    return Check("Coordinator", Level.DOWN, f"none is here and {waiting}", remedy)


def workers_check(present: Sequence[PresenceRecord], snapshot: Snapshot) -> Check:
    """Whoever holds a trial must be heard of before the lease runs out."""
    now = snapshot.taken_at
    late = [t for t in snapshot.trials if t.lease_until and t.state.is_held and t.lease_until < now]
    held = sum(trial.state.is_held for trial in snapshot.trials)
    if late:
        return Check(
            "Workers",
            Level.DOWN,
            f"{len(late)} of {held} running trials have lost their lease",
            "a coordinator gives them to other workers at its next look; see Coordinator",
        )
    workers = [one for one in present if one.role != COORDINATOR]
    quiet = [one for one in workers if QUIET_SECONDS < age(one, now) <= GONE_SECONDS]
    if quiet:
        names = ", ".join(one.name for one in quiet[:3])
        return Check(
            "Workers",
            Level.WARNING,
            f"{len(quiet)} quiet: {names}",
            "look at their log on the run's page, and at the host's memory",
        )
    seen = sum(age(one, now) <= QUIET_SECONDS for one in workers)
    return Check("Workers", Level.OK, f"{seen} seen lately, {held} trials running")


def mlflow_check(where: str, problem: str | None, failed_deliveries: int) -> Check:
    """Trials go on without MLflow; what it misses is delivered later."""
    if problem is not None:
        remedy = "start its server; trials go on, and what it misses is delivered later"
        return Check("MLflow", Level.DOWN, f"{where}: {problem}", remedy)
    if failed_deliveries:
        return Check(
            "MLflow",
            Level.WARNING,
            f"{failed_deliveries:,} deliveries failed at first",
            "they are repeated; the runs' logs say what went wrong",
        )
    return Check("MLflow", Level.OK, where)


def disk_check(folder: str, free_bytes: float) -> Check:
    detail = f"{free_bytes / 1e9:,.1f} GB free at {folder}"
    remedy = "delete old sweeps with `evenload sweep delete ID`, or move EVENLOAD_HOME"
    if free_bytes < NO_DISK_BYTES:
        return Check("Disk", Level.DOWN, detail, remedy)
    if free_bytes < LOW_DISK_BYTES:
        return Check("Disk", Level.WARNING, detail, remedy)
    return Check("Disk", Level.OK, detail)


def age(one: PresenceRecord, now: datetime) -> float:
    """Seconds since it was seen; not below 0."""
    return max(0.0, (now - one.seen_at).total_seconds())


def is_going(state: SweepState) -> bool:
    return state in (SweepState.ACTIVE, SweepState.STOPPING)
