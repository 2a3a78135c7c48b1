"""What a user may do to a sweep or a trial: pause, resume, stop, cancel, retry, extend, ....

All verbs but `extend` are idempotent. An order to a trial holds for every sweep that lists it.
"""

from __future__ import annotations

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, select, update

from evenload.pipeline.errors import SpecError, first_message
from evenload.pipeline.spec.sweep import Extension, SweepSpec
from evenload.pipeline.states import Order, SweepState, TrialState
from evenload.pipeline.store.columns import db_time
from evenload.pipeline.store.conditions import (
    WANT_TRAINING,
    cancelled,
    end_unwanted,
    locked_state,
    unknown_trial,
)
from evenload.pipeline.store.models import Sweep, SweepTrial, Trial
from evenload.pipeline.store.submission import reopen_if_unfinished

ALLOWED = {  # new state -> states from which a sweep may enter it
    SweepState.PAUSED: (SweepState.ACTIVE,),
    SweepState.ACTIVE: (SweepState.PAUSED, SweepState.STOPPING),
    SweepState.STOPPING: (SweepState.ACTIVE, SweepState.PAUSED),
    SweepState.CANCELLED: (SweepState.ACTIVE, SweepState.PAUSED, SweepState.STOPPING),
}


def pause(connection: Connection, sweep_id: str, note: str | None) -> None:
    if _turn(connection, sweep_id, SweepState.PAUSED):
        _set(connection, sweep_id, note=note)


def resume(connection: Connection, sweep_id: str) -> None:
    if _turn(connection, sweep_id, SweepState.ACTIVE):
        _set(connection, sweep_id, note=None, resumed_at=db_time())


def stop(connection: Connection, sweep_id: str) -> None:
    if locked_state(connection, sweep_id) is not SweepState.FINISHED:
        _turn(connection, sweep_id, SweepState.STOPPING)
        end_unwanted(connection)


def cancel(connection: Connection, sweep_id: str) -> None:
    _turn(connection, sweep_id, SweepState.CANCELLED)
    _set(connection, sweep_id, finished_at=db_time())
    end_unwanted(connection)


def retry_failed(connection: Connection, sweep_id: str, digest: str | None) -> int:
    state = locked_state(connection, sweep_id)
    if state is SweepState.CANCELLED:
        raise cancelled(sweep_id)
    listed = select(SweepTrial.digest).where(SweepTrial.sweep_id == sweep_id)
    chosen: ColumnElement[bool] = Trial.digest.in_(listed)
    if digest is not None:
        _check_listed(connection, sweep_id, digest)
        chosen = Trial.digest == digest
    retried = connection.execute(
        update(Trial)
        .where(chosen, Trial.state == TrialState.FAILED)
        .values(
            state=TrialState.QUEUED,
            failures=0,
            preemptions=0,
            error=None,
            ordered=None,
            finished_at=None,
        )
    ).rowcount
    reopen_if_unfinished(connection, sweep_id)
    return retried


def extend(connection: Connection, sweep_id: str, extension: Extension) -> None:
    """Lets a finished sweep train its settings with more seeds."""
    state = locked_state(connection, sweep_id)
    if state is not SweepState.FINISHED:
        raise SpecError(f"sweep {sweep_id} is {state}; seeds can be added once it is finished")
    stored = connection.execute(select(Sweep.spec).where(Sweep.sweep_id == sweep_id)).scalar_one()
    try:
        spec = SweepSpec.trusted(stored)
    except ValidationError as error:
        raise SpecError(f"sweep {sweep_id} is of another version: {first_message(error)}") from None
    is_confirmed = spec.confirm or any(one.top for one in spec.extended)
    if extension.top is not None and is_confirmed:
        raise SpecError(f"--top: sweep {sweep_id} has a confirm stage; add seeds to it without")
    spec = spec.model_copy(update={"extended": (*spec.extended, extension)})
    _set(
        connection,
        sweep_id,
        spec=spec.model_dump(mode="json"),
        state=SweepState.ACTIVE,
        finished_at=None,
    )


def set_priority(connection: Connection, sweep_id: str, priority: int) -> None:
    locked_state(connection, sweep_id)
    _set(connection, sweep_id, priority=priority)


def order_trial(
    connection: Connection, digest: str, order: Order | None, reason: str | None
) -> TrialState:
    state = connection.execute(
        select(Trial.state).where(Trial.digest == digest).with_for_update()
    ).scalar_one_or_none()
    if state is None:
        raise unknown_trial(digest)
    if order is None:
        _take_up_again(connection, digest, state)
    elif not state.is_final:
        connection.execute(
            update(Trial)
            .where(Trial.digest == digest)
            .values(ordered=order, stop_reason=reason if order is Order.STOP else None)
        )
        end_unwanted(connection, digest)
    found = connection.execute(select(Trial.state).where(Trial.digest == digest))
    return found.scalar_one()


def is_shared(connection: Connection, digest: str, sweep_id: str) -> bool:
    """Whether a sweep other than this one wants the trial trained."""
    others = (
        select(Sweep.sweep_id)
        .join(SweepTrial, SweepTrial.sweep_id == Sweep.sweep_id)
        .where(
            SweepTrial.digest == digest,
            Sweep.sweep_id != sweep_id,
            Sweep.state.in_(WANT_TRAINING),
        )
        .limit(1)
    )
    return connection.execute(others).one_or_none() is not None


def order_trial_in(
    connection: Connection,
    sweep_id: str,
    digest: str,
    order: Order | None,
    reason: str | None = None,
) -> TrialState:
    """Orders a trial of this sweep.  Raises: SpecError: the sweep does not list the trial"""
    locked_state(connection, sweep_id)
    _check_listed(connection, sweep_id, digest)
    return order_trial(connection, digest, order, reason)


def _take_up_again(connection: Connection, digest: str, state: TrialState) -> None:
    """Lifts the order; a stopped or cancelled trial is queued again and resumes its checkpoint."""
    if state is TrialState.FAILED:
        raise SpecError(f"trial {digest} failed; queue it again with `evenload sweep retry`")
    values: dict[str, object] = {"ordered": None, "stop_reason": None}
    if state in (TrialState.STOPPED, TrialState.CANCELLED):
        values |= {"state": TrialState.QUEUED, "finished_at": None}
    connection.execute(update(Trial).where(Trial.digest == digest).values(values))
    listing = select(SweepTrial.sweep_id).where(SweepTrial.digest == digest)
    for sweep_id in connection.execute(listing).scalars().all():
        reopen_if_unfinished(connection, sweep_id)
    end_unwanted(connection, digest)


def _check_listed(connection: Connection, sweep_id: str, digest: str) -> None:
    listed = select(SweepTrial.digest).where(
        SweepTrial.sweep_id == sweep_id, SweepTrial.digest == digest
    )
    if connection.execute(listed).one_or_none() is None:
        raise SpecError(
            f"sweep {sweep_id} has no trial {digest!r}; "
            f"`evenload sweep status {sweep_id} --json` lists its trials"
        )


def _turn(connection: Connection, sweep_id: str, state: SweepState) -> bool:
    """Moves the sweep into a state; returns False if it was in that state already."""
    found = locked_state(connection, sweep_id)
    if found is state:
        return False
    if found not in ALLOWED[state]:
        raise SpecError(
            f"sweep {sweep_id} is {found} and cannot become {state}; "
            f"only sweeps that are {' or '.join(ALLOWED[state])} can"
        )
    _set(connection, sweep_id, state=state)
    return True


def _set(connection: Connection, sweep_id: str, **values: object) -> None:
    connection.execute(update(Sweep).where(Sweep.sweep_id == sweep_id).values(**values))
