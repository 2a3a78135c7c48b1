"""Tells of each part of the cluster whether it works, and what to do if not. Pure functions.

Ages are in seconds by the database's clock.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from evenload.pipeline.figures.wording import duration
from evenload.pipeline.states import PresenceRecord, Snapshot, WorkKind

COORDINATOR = "coordinator"
QUIET_SECONDS = 45.0  # coordinators and workers announce themselves every 10 to 15 seconds
GONE_SECONDS = 120.0
SLOW_STORE_SECONDS = 1.0
LOW_DISK_BYTES, NO_DISK_BYTES = 5e9, 1e9


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    DOWN = "down"


class Check(NamedTuple):
    """The state of one part. `remedy` is empty if it works."""

    part: str
    level: Level
    detail: str
    remedy: str = ""


def store_check(where: str, seconds: float) -> Check:
    if seconds > SLOW_STORE_SECONDS:
        remedy = "check the load and the disk of the database; pages read it every few seconds"
        return Check("SQL store", Level.WARNING, f"answers after {seconds:.1f} s", remedy)
    return Check("SQL store", Level.OK, f"answers in {1000 * seconds:.0f} ms: {where}")


def store_down(problem: str) -> Check:
    return Check(
        "SQL store", Level.DOWN, problem, "start the database, or correct EVENLOAD_DATABASE_URL"
    )


def coordinator_check(present: Sequence[PresenceRecord], snapshot: Snapshot) -> Check:
    """A coordinator must run as long as sweeps are not over."""
    left = [sweep for sweep in snapshot.sweeps if sweep.state.is_going]
    ages = sorted(age(one, snapshot.taken_at) for one in present if one.role == COORDINATOR)
    if ages and ages[0] <= QUIET_SECONDS:
        more = f", {len(ages)} in all" if len(ages) > 1 else ""
        return Check("Coordinator", Level.OK, f"seen {duration(ages[0])} ago{more}")
    if not left:
        return Check("Coordinator", Level.OK, "none runs, and no sweep needs one")
    waiting = f"{len(left)} sweeps wait" if len(left) > 1 else "a sweep waits"
    remedy = "start `evenload serve`, or `evenload sweep run ID` for one sweep"
    if ages and ages[0] <= GONE_SECONDS:
        return Check("Coordinator", Level.WARNING, f"quiet for {duration(ages[0])}", remedy)
    return Check("Coordinator", Level.DOWN, f"none runs and {waiting}", remedy)


def workers_check(present: Sequence[PresenceRecord], snapshot: Snapshot) -> Check:
    """Workers that hold trials must send heartbeats before their leases expire."""
    now = snapshot.taken_at
    late = [t for t in snapshot.trials if t.lease_until and t.state.is_held and t.lease_until < now]
    held = sum(trial.state.is_held for trial in snapshot.trials)
    if late:
        lost = f"{len(late)} of {held} running trials have lost their lease"
        remedy = "a coordinator gives them to other workers in its next round; see Coordinator"
        return Check("Workers", Level.DOWN, lost, remedy)
    workers = [one for one in present if one.role in (WorkKind.TRAIN, WorkKind.EVAL)]
    quiet = [one for one in workers if QUIET_SECONDS < age(one, now) <= GONE_SECONDS]
    if quiet:
        names = ", ".join(one.name for one in quiet[:3])
        remedy = "read their logs on the page of the run, and check the memory of the host"
        return Check("Workers", Level.WARNING, f"{len(quiet)} quiet: {names}", remedy)
    seen = sum(age(one, now) <= QUIET_SECONDS for one in workers)
    return Check("Workers", Level.OK, f"{seen} alive, {held} trials running")


def mlflow_check(where: str, problem: str | None, failed_deliveries: int) -> Check:
    """Trials continue without MLflow, which is brought up to date later."""
    if problem is not None:
        remedy = "start its server; trials continue, and their logs are delivered later"
        return Check("MLflow", Level.DOWN, f"{where}: {problem}", remedy)
    if failed_deliveries:
        failed = f"{failed_deliveries:,} deliveries failed at first"
        remedy = "they are repeated; the log of `evenload serve` has the errors"
        return Check("MLflow", Level.WARNING, failed, remedy)
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
    """Seconds since the last announcement; not below 0."""
    return max(0.0, (now - one.seen_at).total_seconds())
