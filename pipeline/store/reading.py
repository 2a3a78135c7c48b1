"""Reads rows and returns them as the frozen records of `pipeline.states`."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select, and_, func, select

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.states import (
    AttemptRecord,
    AttemptState,
    CurvePoint,
    PresenceRecord,
    Progress,
    Stage,
    SweepOverview,
    SweepRecord,
    SweepStatus,
    TrialRecord,
    TrialState,
    TrialStatus,
)
from evenload.pipeline.store.columns import db_time
from evenload.pipeline.store.conditions import (
    FINAL,
    UNFINISHED,
    unknown_sweep,
    unknown_trial,
)
from evenload.pipeline.store.models import Attempt, CurveRow, PresenceRow, Sweep, SweepTrial, Trial

Record = TypeVar(
    "Record",
    AttemptRecord, CurvePoint, PresenceRecord, SweepRecord, SweepStatus, TrialRecord, TrialStatus
)  # fmt: skip
PARTLY_DONE = (TrialState.QUEUED, TrialState.TRAINING, TrialState.CANCELLED)

# Joins a trial to its newest attempt. The attempt's columns are NULL before the first.
NEWEST_ATTEMPT = and_(Attempt.digest == Trial.digest, Attempt.number == Trial.attempt)
ATTEMPT_COLUMNS = (
    Attempt.state.label("attempt_state"),
    Attempt.worker,
    Attempt.lease_until,
    Attempt.heartbeat_at,
    Attempt.exit_reason,
)


def sweeps(connection: Connection) -> list[SweepRecord]:
    """All sweeps, newest first."""
    rows = connection.execute(select(Sweep).order_by(Sweep.created_at.desc(), Sweep.sweep_id))
    return [record(SweepRecord, row) for row in rows]


def sweep(connection: Connection, sweep_id: str) -> SweepRecord:
    row = connection.execute(select(Sweep).where(Sweep.sweep_id == sweep_id)).one_or_none()
    if row is None:
        raise unknown_sweep(sweep_id)
    return record(SweepRecord, row)


def overviews(connection: Connection) -> list[SweepOverview]:
    """All sweeps, newest first, with what is counted of their trials, which are not read."""
    counted = connection.execute(
        select(
            SweepTrial.sweep_id,
            Trial.state,
            func.count().label("trials"),
            func.min(Trial.started_at).label("started_at"),
            func.max(Trial.finished_at).label("ended_at"),
        )
        .join(Trial, Trial.digest == SweepTrial.digest)
        .group_by(SweepTrial.sweep_id, Trial.state)
    ).all()
    partly = connection.execute(
        select(SweepTrial.sweep_id, Trial.progress)
        .join(Trial, Trial.digest == SweepTrial.digest)
        .where(Trial.state.in_(PARTLY_DONE), Trial.progress.is_not(None))
    )
    steps_done: dict[str, float] = defaultdict(float)
    for sweep_id, progress in partly:
        steps_done[sweep_id] += progress["step"] / progress["steps"]
    rows_of = defaultdict(list)
    for row in counted:
        rows_of[row.sweep_id].append(row)
    found = []
    for one in sweeps(connection):
        rows = rows_of[one.sweep_id]
        whole = sum(row.trials for row in rows if row.state not in PARTLY_DONE)
        found.append(
            SweepOverview(
                sweep=one,
                counts={row.state: row.trials for row in rows},
                done=(whole + steps_done[one.sweep_id]) / max(1, sum(row.trials for row in rows)),
                started_at=min((row.started_at for row in rows if row.started_at), default=None),
                ended_at=max((row.ended_at for row in rows if row.ended_at), default=None),
            )
        )
    return found


def sweeps_of(connection: Connection, digests: Collection[str]) -> list[str]:
    """The ids of the sweeps that list one of these trials, newest first."""
    listing = select(SweepTrial.sweep_id).where(SweepTrial.digest.in_(digests))
    rows = select(Sweep.sweep_id).where(Sweep.sweep_id.in_(listing))
    return list(
        connection.execute(rows.order_by(Sweep.created_at.desc(), Sweep.sweep_id)).scalars()
    )


def held(connection: Connection) -> list[TrialRecord]:
    """The trials that a worker holds."""
    states = [state for state in TrialState if state.is_held]
    return [_trial(row) for row in connection.execute(_trials().where(Trial.state.in_(states)))]


def counts(connection: Connection, sweep_id: str) -> dict[TrialState, int]:
    """The number of trials of a sweep in each state; states without trials are left out."""
    rows = connection.execute(
        select(Trial.state, func.count())
        .join(SweepTrial, SweepTrial.digest == Trial.digest)
        .where(SweepTrial.sweep_id == sweep_id)
        .group_by(Trial.state)
    )
    found: dict[TrialState, int] = {state: count for state, count in rows}
    return {state: found[state] for state in TrialState if state in found}


def trials(
    connection: Connection,
    sweep_id: str,
    states: Collection[TrialState] | None = None,
    limit: int | None = None,
) -> list[TrialRecord]:
    """The trials of a sweep in its order; only those in `states`, at most `limit`."""
    chosen = Trial.state.in_(states) if states is not None else Trial.state.is_not(None)
    listed = (
        _trials()
        .add_columns(SweepTrial.stage)
        .join(SweepTrial, SweepTrial.digest == Trial.digest)
        .where(SweepTrial.sweep_id == sweep(connection, sweep_id).sweep_id, chosen)
        .order_by(SweepTrial.position)
        .limit(limit)
    )
    return [_trial(row, row.stage) for row in connection.execute(listed)]


def trial(connection: Connection, digest: str) -> TrialRecord:
    row = connection.execute(_trials().where(Trial.digest == digest)).one_or_none()
    if row is None:
        raise unknown_trial(digest)
    return _trial(row)


def digests(connection: Connection) -> set[str]:
    """All trials that the store knows."""
    return set(connection.execute(select(Trial.digest)).scalars())


def unprojected(
    connection: Connection, since: datetime | None, unended: Collection[str]
) -> list[tuple[TrialRecord, str | None]]:
    """Started trials whose run in MLflow may lack something, with the first sweep of each.

    Args:     since: leave out trials that were final by then; None: look at all trials
              unended: ids of the runs that have not ended in MLflow
    """
    first_sweep = (
        select(Sweep.sweep_id)
        .join(SweepTrial, SweepTrial.sweep_id == Sweep.sweep_id)
        .where(SweepTrial.digest == Trial.digest)
        .order_by(Sweep.created_at, Sweep.sweep_id)
        .limit(1)
        .scalar_subquery()
        .label("first_sweep")
    )
    lacks = Trial.state.not_in(FINAL) | Trial.run_id.is_(None) | Trial.run_id.in_(unended)
    if since is not None:
        unfinished = Trial.state.in_(UNFINISHED)
        ended = select(Attempt.digest).where(Attempt.ended_at >= since)
        lacks &= unfinished | Trial.digest.in_(ended)  # found by indices
    rows = connection.execute(
        _trials().add_columns(first_sweep).where(Trial.attempt > 0, lacks).order_by(Trial.digest)
    )
    return [(_trial(row), row.first_sweep) for row in rows]


def attempts(connection: Connection, digest: str) -> list[AttemptRecord]:
    """All attempts at a trial, oldest first."""
    rows = connection.execute(
        select(Attempt).where(Attempt.digest == digest).order_by(Attempt.number)
    )
    return [record(AttemptRecord, row) for row in rows]


def curves(connection: Connection, sweep_id: str) -> dict[str, list[CurvePoint]]:
    """The learning curves of a sweep's trials by digest; trials without points are left out."""
    found: dict[str, list[CurvePoint]] = {}
    rows = connection.execute(
        select(CurveRow)
        .join(SweepTrial, SweepTrial.digest == CurveRow.digest)
        .where(SweepTrial.sweep_id == sweep_id)
        .order_by(SweepTrial.position, CurveRow.step)
    )
    for row in rows:
        found.setdefault(row.digest, []).append(record(CurvePoint, row))
    return found


def present(connection: Connection) -> list[PresenceRecord]:
    """All announced coordinators and workers by role and name; `seen_at` tells who is alive."""
    rows = connection.execute(select(PresenceRow).order_by(PresenceRow.role, PresenceRow.name))
    return [record(PresenceRecord, row) for row in rows]


def now(connection: Connection) -> datetime:
    """The time of the database's clock."""
    return connection.execute(select(db_time())).scalar_one()


def _trials() -> Select[*tuple[Any, ...]]:
    return select(Trial, *ATTEMPT_COLUMNS).outerjoin(Attempt, NEWEST_ATTEMPT)


def _trial(row: Row[*tuple[Any, ...]], stage: Stage | None = None) -> TrialRecord:
    return record(
        TrialRecord,
        row,
        progress=Progress(**row.progress) if row.progress else None,
        checkpoint_uri=row.checkpoint_uri and shown_address(row.checkpoint_uri),
        lease_until=row.lease_until if row.attempt_state is AttemptState.RUNNING else None,
        stage=stage,
    )


def record(kind: type[Record], row: Row[*tuple[Any, ...]], **computed: Any) -> Record:
    """The record with the row's columns of the same names, and with the computed fields."""
    values = row._mapping
    names = (field.name for field in fields(kind) if field.name not in computed)
    return kind(**{name: values[name] for name in names}, **computed)
