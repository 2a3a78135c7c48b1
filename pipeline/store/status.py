"""Reads the status of sweeps and trials, from which `plan` decides what to do."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, case, func, select

from evenload.pipeline.states import (
    OVER,
    AttemptState,
    Snapshot,
    SweepState,
    SweepStatus,
    TrialState,
    TrialStatus,
    WorkKind,
)
from evenload.pipeline.store.conditions import (
    ACTIVE_FOR,
    BLOCKING_ORDERS,
    UNFINISHED,
    is_not_held_back,
)
from evenload.pipeline.store.models import Attempt, Sweep, SweepTrial, Trial
from evenload.pipeline.store.reading import ATTEMPT_COLUMNS, NEWEST_ATTEMPT, now, record

FAST_SECONDS = 30.0  # an attempt that fails sooner has hardly trained
ENDED_LOOKED_AT = 500  # newest attempts; they tell whose turn it is, and which sweeps only fail
VERDICTS = (AttemptState.DONE, AttemptState.FAILED, AttemptState.LOST)
# Trials start in this order. All columns ascend, so Python can sort by them as well.
STARTING_ORDER = (
    case(
        (Sweep.state == SweepState.ACTIVE, 0), (Sweep.state == SweepState.STOPPING, 1), else_=2
    ).label("rank"),
    (-Sweep.priority).label("urgency"),
    Sweep.created_at,
    Sweep.sweep_id,
    SweepTrial.position,
)


def snapshot(
    connection: Connection, sweep_ids: Sequence[str] | None = None, max_unstarted: int | None = None
) -> Snapshot:
    """The status of these sweeps, or of all that are not over, from which `plan` decides.

    Args:     max_unstarted: read only so many of each submitter's trials without an attempt, the
                  first in starting order; a caller that can start ten need not read ten thousand
    """
    chosen, named = Sweep.sweep_id.is_not(None), Sweep.state.not_in(OVER)
    if sweep_ids is not None:
        chosen = named = Sweep.sweep_id.in_(sweep_ids)
    submitters, ended = _submitters(connection, chosen), _newest_ended(connection)
    return Snapshot(
        taken_at=now(connection),
        sweeps=_sweep_statuses(connection, named, ended),
        # A worker may still hold a trial of a sweep that is over.
        trials=_trial_statuses(connection, chosen, max_unstarted, submitters),
        served=tuple(dict.fromkeys(row.submitter for row in ended)),
    )


def _submitters(connection: Connection, chosen: ColumnElement[bool]) -> Sequence[str]:
    """Who has an active sweep."""
    active = select(Sweep.submitter).where(chosen, Sweep.state == SweepState.ACTIVE).distinct()
    return connection.execute(active).scalars().all()


def _newest_ended(connection: Connection) -> Sequence[Row[*tuple[Any, ...]]]:
    """The attempts that ended last, newest first, one row for each sweep that lists the trial.

    The limit comes before the join, so that PostgreSQL does not look through all attempts for those
    of a sweep that has few.
    """
    newest = (
        select(Attempt.digest, Attempt.state, Attempt.started_at, Attempt.ended_at)
        .where(Attempt.ended_at.is_not(None))
        .order_by(Attempt.ended_at.desc())
        .limit(ENDED_LOOKED_AT)
        .subquery()
    )
    since = func.coalesce(Sweep.resumed_at, Sweep.created_at)
    return connection.execute(
        select(
            Sweep.sweep_id,
            Sweep.submitter,
            (newest.c.ended_at > since).label("counts"),
            newest.c.state,
            newest.c.started_at,
            newest.c.ended_at,
        )
        .join(SweepTrial, SweepTrial.sweep_id == Sweep.sweep_id)
        .join(newest, newest.c.digest == SweepTrial.digest)
        .order_by(newest.c.ended_at.desc())
    ).all()


def _sweep_statuses(
    connection: Connection, chosen: ColumnElement[bool], ended: Sequence[Row[*tuple[Any, ...]]]
) -> tuple[SweepStatus, ...]:
    waiting = (TrialState.QUEUED, TrialState.TRAINED)
    # From the unfinished trials, of which there are few, and not from all that the sweeps list.
    unfinished = (
        select(
            SweepTrial.sweep_id,
            func.count().label("unfinished"),
            *(func.count(case((Trial.state == state, 1))).label(state.value) for state in waiting),
        )
        .join(Trial, Trial.digest == SweepTrial.digest)
        .where(Trial.state.in_(UNFINISHED))
        .group_by(SweepTrial.sweep_id)
        .subquery()
    )
    counts = [func.coalesce(column, 0).label(column.name) for column in list(unfinished.c)[1:]]
    rows = connection.execute(
        select(Sweep.sweep_id, Sweep.state, Sweep.is_expanded, Sweep.limits, *counts)
        .outerjoin(unfinished, unfinished.c.sweep_id == Sweep.sweep_id)
        .where(chosen)
        .order_by(Sweep.created_at, Sweep.sweep_id)
    )
    found = []
    for row in rows.all():
        is_active = row.state is SweepState.ACTIVE
        fast_failures = _fast_failures(ended, row.sweep_id) if is_active else 0
        limits = row.limits or {}
        spent = _spent_seconds(connection, row.sweep_id) if is_active and limits.get("hours") else 0
        more = {"fast_failures": fast_failures, "limits": limits, "spent_seconds": spent}
        found.append(record(SweepStatus, row, **more))
    return tuple(found)


def _spent_seconds(connection: Connection, sweep_id: str) -> float:
    """Since the first attempt after the sweep was made or last resumed."""
    began = connection.execute(
        select(func.min(Attempt.started_at))
        .join(SweepTrial, SweepTrial.digest == Attempt.digest)
        .join(Sweep, Sweep.sweep_id == SweepTrial.sweep_id)
        .where(
            SweepTrial.sweep_id == sweep_id,
            Attempt.started_at > func.coalesce(Sweep.resumed_at, Sweep.created_at),
        )
    ).scalar_one()
    return 0.0 if began is None else (now(connection) - began).total_seconds()


def _held_seconds(connection: Connection, digests: Sequence[str]) -> dict[str, float]:
    """How long workers have held each of these trials."""
    at, held = now(connection), dict.fromkeys(digests, 0.0)
    attempts = select(Attempt.digest, Attempt.started_at, Attempt.ended_at)
    for digest, began, ended in connection.execute(attempts.where(Attempt.digest.in_(digests))):
        held[digest] += ((ended or at) - began).total_seconds()
    return held


def _fast_failures(ended: Sequence[Row[*tuple[Any, ...]]], sweep_id: str) -> int:
    """How many of the sweep's newest attempts, one after another, failed right after their start.

    Attempts before the sweep was last resumed do not count. A lost worker counts like an error.
    Released and preempted attempts are skipped.
    """
    fast = 0
    for row in ended:
        if row.sweep_id != sweep_id or not row.counts or row.state not in VERDICTS:
            continue
        lived_seconds = (row.ended_at - row.started_at).total_seconds()
        if row.state is AttemptState.DONE or lived_seconds > FAST_SECONDS:
            break
        fast += 1
    return fast


def _trial_statuses(
    connection: Connection,
    chosen: ColumnElement[bool],
    max_unstarted: int | None,
    submitters: Sequence[str],
) -> tuple[TrialStatus, ...]:
    """One status per trial; of several sweeps that list it, the first in starting order counts."""
    unfinished = _unfinished(chosen)
    if max_unstarted is None:
        rows = connection.execute(unfinished).all()
    else:
        tried = connection.execute(unfinished.where(Trial.attempt > 0)).all()
        # Trials that an order holds back would take the places of those that can start.
        fresh = unfinished.where(Trial.attempt == 0, is_not_held_back(WorkKind.TRAIN))
        rest = [
            row
            for who in submitters
            for row in connection.execute(fresh.where(Sweep.submitter == who).limit(max_unstarted))
        ]
        rows = sorted([*tried, *rest], key=lambda row: tuple(row)[: len(STARTING_ORDER)])
    limited = [row.digest for row in rows if row.attempt and (row.limits or {}).get("trial_hours")]
    held = _held_seconds(connection, limited) if limited else {}
    statuses: dict[str, TrialStatus] = {}
    for row in rows:
        statuses.setdefault(row.digest, _trial_status(row, held.get(row.digest, 0.0)))
    return tuple(statuses.values())


def _unfinished(chosen: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    return (
        select(
            *STARTING_ORDER,
            Trial.digest,
            Trial.state,
            Trial.attempt,
            Trial.failures,
            Trial.preemptions,
            Trial.ordered,
            Sweep.state.label("sweep_state"),
            Sweep.submitter,
            Sweep.max_retries,
            Sweep.max_preemptions,
            Sweep.limits,
            *ATTEMPT_COLUMNS,
        )
        .join(SweepTrial, SweepTrial.digest == Trial.digest)
        .join(Sweep, Sweep.sweep_id == SweepTrial.sweep_id)
        .outerjoin(Attempt, NEWEST_ATTEMPT)
        .where(chosen, Trial.state.in_(UNFINISHED))
        .order_by(*STARTING_ORDER)
    )


KIND_OF = {TrialState.TRAINED: WorkKind.EVAL, TrialState.EVALUATING: WorkKind.EVAL}


def _trial_status(row: Row[*tuple[Any, ...]], held_seconds: float) -> TrialStatus:
    kind = KIND_OF.get(row.state, WorkKind.TRAIN)
    may_run = row.sweep_state in ACTIVE_FOR[kind] and row.ordered not in BLOCKING_ORDERS[kind]
    limit = (row.limits or {}).get("trial_hours")
    return record(TrialStatus, row, may_run=may_run, held_seconds=held_seconds, limit_hours=limit)
