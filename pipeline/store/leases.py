"""Who works on what: claim, heartbeat, finish, and what happens when a worker is lost.

Every change of a trial's holder is one UPDATE whose condition names the state it expects; its row
count says who won. Locks are taken in the order attempt, then trial.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, update

from pipeline.errors import LeaseLost
from pipeline.records import (
    AttemptState,
    Claim,
    Command,
    Progress,
    SweepState,
    TrialState,
    WorkKind,
)
from pipeline.store.columns import db_time
from pipeline.store.models import Attempt, Sweep, SweepTrial, Trial
from pipeline.store.standing import HELD, WAITING, cancel_unwanted, is_wanted_by, trial_state

VERDICTS = (TrialState.TRAINED, TrialState.COMPLETED, TrialState.FAILED)


def claim(
    connection: Connection, digest: str, kind: WorkKind, worker: str, lease_seconds: float
) -> Claim | None:
    won = connection.execute(
        update(Trial)
        .where(
            Trial.digest == digest,
            Trial.state == WAITING[kind],
            is_wanted_by(SweepState.ACTIVE),
        )
        .values(
            state=HELD[kind],
            attempt=Trial.attempt + 1,
            started_at=func.coalesce(Trial.started_at, db_time()),
        )
        .returning(Trial.attempt, Trial.label, Trial.spec, Trial.checkpoint_uri)
    ).one_or_none()
    if won is None:
        return None
    connection.execute(
        insert(Attempt).values(
            digest=digest,
            number=won.attempt,
            kind=kind,
            worker=worker,
            state=AttemptState.RUNNING,
            started_at=db_time(),
            heartbeat_at=db_time(),
            lease_until=db_time(lease_seconds),
        )
    )
    sweep = _oldest_active_sweep(connection, digest)
    return Claim(
        digest=digest,
        kind=kind,
        attempt=won.attempt,
        worker=worker,
        label=won.label,
        spec=won.spec,
        checkpoint_uri=won.checkpoint_uri,
        sweep_id=sweep.sweep_id if sweep else None,
        parent_run_id=sweep.parent_run_id if sweep else None,
    )


def claim_next(
    connection: Connection, kind: WorkKind, worker: str, lease_seconds: float
) -> Claim | None:
    digest = connection.execute(
        select(Trial.digest)
        .join(SweepTrial, SweepTrial.digest == Trial.digest)
        .join(Sweep, Sweep.sweep_id == SweepTrial.sweep_id)
        .where(Trial.state == WAITING[kind], Sweep.state == SweepState.ACTIVE)
        .order_by(Sweep.created_at, Sweep.sweep_id, SweepTrial.position)
        .limit(1)
        .with_for_update(of=Trial, skip_locked=True)
    ).scalar_one_or_none()
    return None if digest is None else claim(connection, digest, kind, worker, lease_seconds)


def heartbeat(
    connection: Connection, held: Claim, progress: Progress | None, lease_seconds: float
) -> Command:
    renewed = connection.execute(
        update(Attempt)
        .where(_is_running(held.digest, held.attempt))
        .values(heartbeat_at=db_time(), lease_until=db_time(lease_seconds))
    )
    if renewed.rowcount == 0:
        raise _lost(held)
    if progress is not None:
        connection.execute(
            update(Trial)
            .where(Trial.digest == held.digest)
            .values(progress=dataclasses.asdict(progress))
        )
    wanted = connection.execute(
        select(is_wanted_by(SweepState.ACTIVE)).where(Trial.digest == held.digest)
    ).scalar_one()
    return Command.CONTINUE if wanted else Command.STOP


def finish(
    connection: Connection,
    held: Claim,
    state: TrialState,
    result: dict[str, float],
    error: str | None,
    checkpoint_uri: str | None,
    run_id: str | None,
) -> TrialState:
    assert state in VERDICTS, state
    failed = state is TrialState.FAILED
    ending = AttemptState.FAILED if failed else AttemptState.DONE
    _end(connection, held, ending, _last_line(error))
    before = connection.execute(select(Trial.result).where(Trial.digest == held.digest))
    values: dict[str, Any] = {
        "state": state,
        "result": before.scalar_one() | result,
        "error": error,
        "checkpoint_uri": func.coalesce(checkpoint_uri, Trial.checkpoint_uri),
        "run_id": func.coalesce(run_id, Trial.run_id),
    }
    if state.is_final:
        values["finished_at"] = db_time()
    connection.execute(update(Trial).where(Trial.digest == held.digest).values(values))
    cancel_unwanted(connection, held.digest)
    return trial_state(connection, held.digest)


def release(connection: Connection, held: Claim, reason: str) -> TrialState:
    _end(connection, held, AttemptState.RELEASED, reason)
    _give_back(connection, held.digest, held.kind)
    cancel_unwanted(connection, held.digest)
    return trial_state(connection, held.digest)


def expire(connection: Connection) -> list[str]:
    overdue = (Attempt.state == AttemptState.RUNNING, Attempt.lease_until < db_time())
    return _lose(connection, overdue, "lease expired", counts=True)


def lose(connection: Connection, worker: str, reason: str, counts: bool) -> list[str]:
    held = (Attempt.state == AttemptState.RUNNING, Attempt.worker == worker)
    return _lose(connection, held, reason, counts)


def fail(connection: Connection, digest: str, attempt: int, reason: str) -> bool:
    given_up = connection.execute(
        update(Trial)
        .where(
            Trial.digest == digest,
            Trial.attempt == attempt,
            Trial.state.in_(list(WAITING.values())),
        )
        .values(state=TrialState.FAILED, error=reason, finished_at=db_time())
    )
    return given_up.rowcount == 1


def _lose(
    connection: Connection, condition: tuple[ColumnElement[bool], ...], reason: str, counts: bool
) -> list[str]:
    """Ends attempts without a verdict. One that somebody is just ending is left alone."""
    attempts = connection.execute(
        select(Attempt.digest, Attempt.number, Attempt.kind)
        .where(*condition)
        .with_for_update(skip_locked=True)
    ).all()
    for digest, number, kind in attempts:
        connection.execute(
            update(Attempt)
            .where(_is_running(digest, number))
            .values(state=AttemptState.LOST, ended_at=db_time(), exit_reason=reason)
        )
        _give_back(connection, digest, kind, failures=int(counts))
        cancel_unwanted(connection, digest)
    return [digest for digest, _, _ in attempts]


def _end(connection: Connection, held: Claim, state: AttemptState, reason: str | None) -> None:
    ended = connection.execute(
        update(Attempt)
        .where(_is_running(held.digest, held.attempt))
        .values(state=state, heartbeat_at=db_time(), ended_at=db_time(), exit_reason=reason)
    )
    if ended.rowcount == 0:
        raise _lost(held)


def _give_back(connection: Connection, digest: str, kind: WorkKind, failures: int = 0) -> None:
    connection.execute(
        update(Trial)
        .where(Trial.digest == digest)
        .values(state=WAITING[kind], failures=Trial.failures + failures)
    )


def _is_running(digest: str, number: int) -> ColumnElement[bool]:
    return (
        (Attempt.digest == digest)
        & (Attempt.number == number)
        & (Attempt.state == AttemptState.RUNNING)
    )


def _oldest_active_sweep(connection: Connection, digest: str) -> Row[str, str | None] | None:
    """None where the sweep was paused or cancelled since: the first heartbeat will say STOP."""
    return connection.execute(
        select(Sweep.sweep_id, Sweep.parent_run_id)
        .join(SweepTrial, SweepTrial.sweep_id == Sweep.sweep_id)
        .where(SweepTrial.digest == digest, Sweep.state == SweepState.ACTIVE)
        .order_by(Sweep.created_at, Sweep.sweep_id)
        .limit(1)
    ).one_or_none()


def _lost(held: Claim) -> LeaseLost:
    return LeaseLost(
        f"attempt {held.attempt} of trial {held.digest} is not its current one any more; "
        f"{held.worker} must stop"
    )


def _last_line(error: str | None) -> str | None:
    return error.strip().splitlines()[-1] if error and error.strip() else None
