"""Reads rows and returns them as the frozen records of `pipeline.states`."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, case, func, select

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.states import (
    OVER,
    AttemptRecord,
    AttemptState,
    CurvePoint,
    PresenceRecord,
    Progress,
    Snapshot,
    Stage,
    SweepOverview,
    SweepRecord,
    SweepState,
    SweepStatus,
    TrialRecord,
    TrialState,
    TrialStatus,
    WorkKind,
)
from evenload.pipeline.store.columns import db_time
from evenload.pipeline.store.conditions import (
    ACTIVE_FOR,
    BLOCKING_ORDERS,
    FINAL,
    is_not_held_back,
    unknown_sweep,
    unknown_trial,
)
from evenload.pipeline.store.models import Attempt, CurveRow, PresenceRow, Sweep, SweepTrial, Trial

Record = TypeVar(
    "Record",
    AttemptRecord, CurvePoint, PresenceRecord, SweepRecord, SweepStatus, TrialRecord, TrialStatus
)  # fmt: skip
PARTLY_DONE = (TrialState.QUEUED, TrialState.TRAINING, TrialState.CANCELLED)
FAST_SECONDS = 30.0  # an attempt that fails sooner has hardly trained
ENDED_LOOKED_AT = 500  # newest attempts; they tell whose turn it is, and which sweeps only fail
VERDICTS = (AttemptState.DONE, AttemptState.FAILED, AttemptState.LOST)
UNFINISHED = tuple(state for state in TrialState if not state.is_final)  # IN can use an index

# Joins a trial to its newest attempt. The attempt's columns are NULL before the first.
NEWEST_ATTEMPT = and_(Attempt.digest == Trial.digest, Attempt.number == Trial.attempt)
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
    return [_record(SweepRecord, row) for row in rows]


def sweep(connection: Connection, sweep_id: str) -> SweepRecord:
    row = connection.execute(select(Sweep).where(Sweep.sweep_id == sweep_id)).one_or_none()
    if row is None:
        raise unknown_sweep(sweep_id)
    return _record(SweepRecord, row)


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
    found = []
    for one in sweeps(connection):
        rows = [row for row in counted if row.sweep_id == one.sweep_id]
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
    return [_record(AttemptRecord, row) for row in rows]


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
        found.setdefault(row.digest, []).append(_record(CurvePoint, row))
    return found


def present(connection: Connection) -> list[PresenceRecord]:
    """All announced coordinators and workers by role and name; `seen_at` tells who is alive."""
    rows = connection.execute(select(PresenceRow).order_by(PresenceRow.role, PresenceRow.name))
    return [_record(PresenceRecord, row) for row in rows]


def now(connection: Connection) -> datetime:
    """The time of the database's clock."""
    return connection.execute(select(db_time())).scalar_one()


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
        found.append(_record(SweepStatus, row, **more))
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
    return _record(TrialStatus, row, may_run=may_run, held_seconds=held_seconds, limit_hours=limit)


def _trials() -> Select[*tuple[Any, ...]]:
    return select(Trial, *ATTEMPT_COLUMNS).outerjoin(Attempt, NEWEST_ATTEMPT)


def _trial(row: Row[*tuple[Any, ...]], stage: Stage | None = None) -> TrialRecord:
    return _record(
        TrialRecord,
        row,
        progress=Progress(**row.progress) if row.progress else None,
        checkpoint_uri=row.checkpoint_uri and shown_address(row.checkpoint_uri),
        lease_until=row.lease_until if row.attempt_state is AttemptState.RUNNING else None,
        stage=stage,
    )


def _record(kind: type[Record], row: Row[*tuple[Any, ...]], **computed: Any) -> Record:
    """The record with the row's columns of the same names, and with the computed fields."""
    values = row._mapping
    names = (field.name for field in fields(kind) if field.name not in computed)
    return kind(**{name: values[name] for name in names}, **computed)
