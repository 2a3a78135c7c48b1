"""Leases on trials: claim, heartbeat, finish, release, and taking trials from lost workers.

Every change of a trial's holder is one UPDATE whose condition names the expected state. Its row
count tells whether it won. Locks are taken in the order attempt, then trial.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.errors import LeaseLost
from evenload.pipeline.states import (
    AttemptState,
    Charge,
    Claim,
    Command,
    CurvePoint,
    Lease,
    Order,
    Progress,
    SweepState,
    TrialState,
    WorkKind,
)
from evenload.pipeline.store.columns import db_time
from evenload.pipeline.store.conditions import (
    ACTIVE_FOR,
    HELD,
    WAITING,
    WANT_TRAINING,
    end_unwanted,
    is_listed_by,
    is_not_held_back,
    may_run,
    set_trial,
    trial_state,
)
from evenload.pipeline.store.models import Attempt, CurveRow, Sweep, SweepTrial, Trial

VERDICTS = (TrialState.TRAINED, TrialState.COMPLETED, TrialState.STOPPED, TrialState.FAILED)
FIRST_SWEEP_FIRST = (Sweep.priority.desc(), Sweep.created_at, Sweep.sweep_id)


def is_claimable(connection: Connection, digest: str, kind: WorkKind) -> bool:
    """Whether a worker may claim the trial now."""
    return bool(connection.execute(select(exists().where(_claimable(digest, kind)))).scalar_one())


def _claimable(digest: str, kind: WorkKind) -> ColumnElement[bool]:
    return and_(Trial.digest == digest, Trial.state == WAITING[kind], may_run(kind))


def claim(
    connection: Connection, digest: str, kind: WorkKind, worker: str, lease_seconds: float
) -> Claim | None:
    """Claims a waiting trial of an active sweep; None if another worker was faster.

    At most one of several simultaneous claims succeeds. The claim has a new attempt number.
    """
    won = connection.execute(
        update(Trial)
        .where(_claimable(digest, kind))
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
    return Claim(
        digest=digest,
        kind=kind,
        attempt=won.attempt,
        worker=worker,
        label=won.label,
        spec=won.spec,
        checkpoint_uri=won.checkpoint_uri and shown_address(won.checkpoint_uri),
        sweep_id=_first_sweep(connection, digest, kind),
    )


def claim_next(
    connection: Connection, kind: WorkKind, worker: str, lease_seconds: float
) -> Claim | None:
    """Claims the first waiting trial; None if no trial waits.

    Sweeps of higher priority come first, and among equals the older ones.
    """
    digest = connection.execute(
        select(Trial.digest)
        .join(SweepTrial, SweepTrial.digest == Trial.digest)
        .join(Sweep, Sweep.sweep_id == SweepTrial.sweep_id)
        .where(
            Trial.state == WAITING[kind], Sweep.state.in_(ACTIVE_FOR[kind]), is_not_held_back(kind)
        )
        .order_by(*FIRST_SWEEP_FIRST, SweepTrial.position)
        .limit(1)
        .with_for_update(of=Trial, skip_locked=True)
    ).scalar_one_or_none()
    return None if digest is None else claim(connection, digest, kind, worker, lease_seconds)


def heartbeat(
    connection: Connection, held: Claim, progress: Progress | None, lease_seconds: float
) -> Command:
    """Renews the lease; returns whether to continue.  Raises: LeaseLost"""
    renewed = connection.execute(
        update(Attempt)
        .where(_is_running(held.digest, held.attempt))
        .values(heartbeat_at=db_time(), lease_until=db_time(lease_seconds))
    )
    if renewed.rowcount == 0:
        raise _lost(held)
    if progress is not None:
        set_trial(connection, held.digest, progress=dataclasses.asdict(progress))
    return _command(connection, held)


def _command(connection: Connection, held: Claim) -> Command:
    trial = connection.execute(
        select(
            may_run(held.kind).label("goes_on"),
            Trial.ordered,
            is_listed_by(*WANT_TRAINING).label("is_trained_on"),
            is_listed_by(SweepState.STOPPING).label("is_stopping"),
        ).where(Trial.digest == held.digest)
    ).one()
    if trial.goes_on:
        return Command.CONTINUE
    stopping = trial.is_stopping and not trial.is_trained_on
    if trial.ordered is Order.STOP or (trial.ordered is None and stopping):
        return Command.END
    return Command.STOP


def record_curve(connection: Connection, held: Claim, points: Sequence[CurvePoint]) -> None:
    """Adds points to the trial's learning curve or replaces them.  Raises: LeaseLost"""
    if not points:
        return
    still = select(Attempt.number).where(_is_running(held.digest, held.attempt)).with_for_update()
    if connection.execute(still).one_or_none() is None:
        raise _lost(held)
    # A resumed attempt records the steps after its checkpoint once more.
    connection.execute(
        delete(CurveRow).where(
            CurveRow.digest == held.digest, CurveRow.step.in_([point.step for point in points])
        )
    )
    rows = [{"digest": held.digest, **dataclasses.asdict(point)} for point in points]
    connection.execute(insert(CurveRow), rows)


def finish(
    connection: Connection,
    held: Claim,
    state: TrialState,
    result: Mapping[str, float] | None = None,
    *,
    error: str | None = None,
    checkpoint_uri: str | None = None,
    may_pass: bool = False,
) -> TrialState:
    """Ends the attempt with its verdict: TRAINED, COMPLETED, STOPPED or FAILED.

    `result` is merged into the trial's figures. Returns the trial's new state, which is
    CANCELLED if it was TRAINED but no sweep wants it any more.

    Args:     may_pass: whether another attempt may succeed where this one failed; then the
                  trial's first failure only costs a retry, and it waits for another attempt
    Raises:   LeaseLost: nothing was written
    """
    assert state in VERDICTS, state
    failed = state is TrialState.FAILED
    ending = AttemptState.FAILED if failed else AttemptState.DONE
    if not _end(connection, held, ending, _last_line(error)):
        return trial_state(connection, held.digest)
    before = connection.execute(
        select(Trial.result, Trial.failures).where(Trial.digest == held.digest)
    ).one()
    if failed and may_pass and before.failures == 0:
        set_trial(connection, held.digest, error=error)
        return _give_back(connection, held.digest, held.kind, Charge.RETRY)
    values: dict[str, Any] = {
        "state": state,
        "result": before.result | dict(result or {}),
        "error": error,
        "checkpoint_uri": func.coalesce(checkpoint_uri, Trial.checkpoint_uri),
    }
    if state.is_final:
        values |= {"finished_at": db_time(), "ordered": None}
    if state is TrialState.STOPPED:
        values["stop_reason"] = func.coalesce(Trial.stop_reason, "its sweep was stopped")
    set_trial(connection, held.digest, **values)
    if state.is_final:
        return state
    end_unwanted(connection, held.digest)
    return trial_state(connection, held.digest)


def release(
    connection: Connection, held: Claim, reason: str = "told to stop", *, preempted: bool = False
) -> TrialState:
    """Releases the trial, which will resume from its checkpoint. This costs no retry.

    Args:     preempted: whether the host is being taken away; this costs one preemption
    Returns:  the trial's new state, CANCELLED if no sweep wants it any more
    Raises:   LeaseLost: nothing was written
    """
    ending = AttemptState.PREEMPTED if preempted else AttemptState.RELEASED
    if not _end(connection, held, ending, reason):
        return trial_state(connection, held.digest)
    charge = Charge.PREEMPTION if preempted else Charge.NOTHING
    return _give_back(connection, held.digest, held.kind, charge)


def expire(connection: Connection, overdue: Collection[Lease]) -> list[str]:
    """Takes trials from workers that have not renewed these leases; each costs one retry.

    Returns:  the digests of the trials, which are queued again
    """
    found = _running(connection, Attempt.digest.in_([lease.digest for lease in overdue]))
    silent = {(lease.digest, lease.attempt, lease.renewed_at) for lease in overdue}
    unrenewed = [row for row in found if (row.digest, row.number, row.heartbeat_at) in silent]
    return _lose(connection, unrenewed, "lease expired", Charge.RETRY)


def lose(
    connection: Connection, worker: str, reason: str, charge: Charge = Charge.RETRY
) -> list[str]:
    """Queues the trials of a dead worker again, without waiting for the lease to expire.

    Args:     charge: the budget that each trial pays from
    Returns:  the digests
    """
    return _lose(connection, _running(connection, Attempt.worker == worker), reason, charge)


def fail(connection: Connection, digest: str, attempt: int, reason: str) -> bool:
    """Marks a waiting trial FAILED; False if it has another attempt by now or does not wait."""
    given_up = connection.execute(
        update(Trial)
        .where(
            Trial.digest == digest,
            Trial.attempt == attempt,
            Trial.state.in_(list(WAITING.values())),
        )
        .values(state=TrialState.FAILED, error=reason, ordered=None, finished_at=db_time())
    )
    return given_up.rowcount == 1


def _running(
    connection: Connection, chosen: ColumnElement[bool]
) -> Sequence[Row[str, int, WorkKind, datetime]]:
    """The chosen running attempts, locked, without those that another transaction is ending."""
    return connection.execute(
        select(Attempt.digest, Attempt.number, Attempt.kind, Attempt.heartbeat_at)
        .where(Attempt.state == AttemptState.RUNNING, chosen)
        .with_for_update(skip_locked=True)
    ).all()


def _lose(
    connection: Connection,
    attempts: Sequence[Row[str, int, WorkKind, datetime]],
    reason: str,
    charge: Charge,
) -> list[str]:
    """Ends attempts without a verdict."""
    preempted = charge is Charge.PREEMPTION
    ending = AttemptState.PREEMPTED if preempted else AttemptState.LOST
    for digest, number, kind, _ in attempts:
        connection.execute(
            update(Attempt)
            .where(_is_running(digest, number))
            .values(state=ending, ended_at=db_time(), exit_reason=reason)
        )
        _give_back(connection, digest, kind, charge)
    return [attempt.digest for attempt in attempts]


def _end(connection: Connection, held: Claim, state: AttemptState, reason: str | None) -> bool:
    """Ends the attempt; False if it had ended in this state before and only the answer was lost."""
    ended = connection.execute(
        update(Attempt)
        .where(_is_running(held.digest, held.attempt))
        .values(state=state, heartbeat_at=db_time(), ended_at=db_time(), exit_reason=reason)
    )
    if ended.rowcount == 1:
        return True
    found = select(Attempt.state).where(
        Attempt.digest == held.digest, Attempt.number == held.attempt
    )
    if connection.execute(found).scalar_one_or_none() is not state:
        raise _lost(held)
    return False


def _give_back(connection: Connection, digest: str, kind: WorkKind, charge: Charge) -> TrialState:
    """Lets the trial wait again, or ends it if no sweep wants it; returns its new state."""
    failures = Trial.failures + int(charge is Charge.RETRY)
    preemptions = Trial.preemptions + int(charge is Charge.PREEMPTION)
    set_trial(connection, digest, state=WAITING[kind], failures=failures, preemptions=preemptions)
    end_unwanted(connection, digest)
    return trial_state(connection, digest)


def _is_running(digest: str, number: int) -> ColumnElement[bool]:
    return (
        (Attempt.digest == digest)
        & (Attempt.number == number)
        & (Attempt.state == AttemptState.RUNNING)
    )


def _first_sweep(connection: Connection, digest: str, kind: WorkKind) -> str | None:
    """The first sweep that wants this work; None if it was paused or cancelled in the meantime.

    The answer to the first heartbeat is STOP then.
    """
    return connection.execute(
        select(Sweep.sweep_id)
        .join(SweepTrial, SweepTrial.sweep_id == Sweep.sweep_id)
        .where(SweepTrial.digest == digest, Sweep.state.in_(ACTIVE_FOR[kind]))
        .order_by(*FIRST_SWEEP_FIRST)
        .limit(1)
    ).scalar_one_or_none()


def _lost(held: Claim) -> LeaseLost:
    return LeaseLost(
        f"attempt {held.attempt} of trial {held.digest} has lost its lease; {held.worker} must stop"
    )


def _last_line(error: str | None) -> str | None:
    return error.strip().splitlines()[-1] if error and error.strip() else None
