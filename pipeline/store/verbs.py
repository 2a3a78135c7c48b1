"""What a user may do to a sweep or a trial: pause, resume, stop, cancel, retry, extend, ....

All verbs but `extend` are idempotent. An order to a trial holds for every sweep that lists it. The
verbs return how many trials they concern, 0 if all was so before, and raise SpecError if the sweep
or the trial is in a state that does not allow them.
"""

from pydantic import ValidationError
from sqlalchemy import Connection, exists, func, select, update

from evenload.pipeline.errors import SpecError, first_message
from evenload.pipeline.spec.sweep import Extension, SweepSpec
from evenload.pipeline.states import Order, SweepState, TrialState, WorkKind
from evenload.pipeline.store.columns import db_time
from evenload.pipeline.store.conditions import (
    ACTIVE_FOR,
    FINAL,
    WANT_TRAINING,
    cancelled,
    check_is_current,
    end_unwanted,
    is_listed_by,
    is_unfinished,
    locked_state,
    set_trial,
    trial_state,
    unknown_trial,
)
from evenload.pipeline.store.deeds import noted
from evenload.pipeline.store.models import Sweep, SweepTrial, Trial
from evenload.pipeline.store.submission import requeue

ALLOWED = {  # new state -> states from which a sweep may enter it
    SweepState.PAUSED: (SweepState.ACTIVE,),
    SweepState.ACTIVE: (SweepState.PAUSED, SweepState.STOPPING),
    SweepState.STOPPING: (SweepState.ACTIVE, SweepState.PAUSED),
    SweepState.CANCELLED: (SweepState.ACTIVE, SweepState.PAUSED, SweepState.STOPPING),
}

EFFECTS: dict[Order | None, tuple[str, TrialState | None]] = {  # and the final state, if any
    Order.PAUSE: ("paused", None),
    Order.STOP: ("stopped", TrialState.STOPPED),
    Order.CANCEL: ("cancelled", TrialState.CANCELLED),
    None: ("resumed", None),
}


def pause(
    connection: Connection, sweep_id: str, digest: str | None = None, *, note: str | None = None
) -> int:
    """Starts no further trials; running trials write a checkpoint and are released.

    Like every verb it is idempotent, and it acts on the whole sweep or, with `digest`, on one of
    its trials as described at `order`.

    Args:     note: the reason, if the program pauses the sweep and not a user
    Returns:  the number of trials it concerns, 0 if the sweep or the trial was so before
    Raises:   SpecError: the sweep or trial is unknown or can no longer be paused
    """
    with noted(connection, "pause", sweep_id, digest):
        if digest is not None:
            return _order_in(connection, sweep_id, digest, Order.PAUSE)
        return _turn(connection, sweep_id, SweepState.PAUSED, note=note)


def resume(connection: Connection, sweep_id: str, digest: str | None = None) -> int:
    """Resumes a paused or stopping sweep, or a paused, stopped or cancelled trial."""
    with noted(connection, "resume", sweep_id, digest):
        if digest is not None:
            return _order_in(connection, sweep_id, digest, None)
        return _turn(connection, sweep_id, SweepState.ACTIVE, note=None, resumed_at=db_time())


def stop(
    connection: Connection, sweep_id: str, digest: str | None = None, *, note: str | None = None
) -> int:
    """Ends training: running trials write a checkpoint and end as STOPPED.

    Trained trials are still evaluated, and then the sweep is finished. Trials that another sweep
    also wants continue.

    Args:     note: the reason, if the program stops the sweep and not a user
    """
    with noted(connection, "stop", sweep_id, digest):
        if digest is not None:
            return _order_in(connection, sweep_id, digest, Order.STOP, "stopped by its user")
        concerned = _turn(connection, sweep_id, SweepState.STOPPING, note=note)
        if note is not None:
            listed = select(SweepTrial.digest).where(SweepTrial.sweep_id == sweep_id)
            ends = Trial.digest.in_(listed) & ~is_listed_by(*WANT_TRAINING)
            ends &= Trial.state.not_in(FINAL)
            connection.execute(update(Trial).where(ends).values(stop_reason=note))
        end_unwanted(connection)
        return concerned


def cancel(connection: Connection, sweep_id: str, digest: str | None = None) -> int:
    """Ends a sweep for good. Trials that another sweep also wants continue.

    A trial that is cancelled alone stays so until it is resumed, whichever sweep lists it.
    """
    with noted(connection, "cancel", sweep_id, digest):
        if digest is not None:
            return _order_in(connection, sweep_id, digest, Order.CANCEL)
        concerned = _turn(connection, sweep_id, SweepState.CANCELLED, finished_at=db_time())
        end_unwanted(connection)
        return concerned


def finished(connection: Connection, sweep_id: str) -> bool:
    """Marks an active or stopping sweep FINISHED; False if one of its trials is not final."""
    # Locking first makes PostgreSQL judge by what it reads after the wait, not before it: just now
    # the sweep may get another trial, or one of its trials may be queued again.
    is_open = (Sweep.sweep_id == sweep_id) & Sweep.state.in_(ACTIVE_FOR[WorkKind.EVAL])
    connection.execute(select(Sweep.sweep_id).where(is_open).with_for_update())
    listed = select(SweepTrial.digest).where(SweepTrial.sweep_id == sweep_id)
    trials = select(Trial.digest).where(Trial.digest.in_(listed)).with_for_update(read=True)
    connection.execute(trials).all()
    left = exists().where(SweepTrial.sweep_id == sweep_id, is_unfinished())
    ended = update(Sweep).where(is_open, ~left)
    values = {"state": SweepState.FINISHED, "finished_at": db_time()}
    return connection.execute(ended.values(values)).rowcount == 1


def retry_failed(connection: Connection, sweep_id: str, digest: str | None = None) -> int:
    """Queues the failed trials again, to resume from their checkpoints; returns how many.

    They get their full budgets of retries and preemptions.
    """
    with noted(connection, "retry", sweep_id, digest):
        if locked_state(connection, sweep_id) is SweepState.CANCELLED:
            raise cancelled(sweep_id)
        listed = select(SweepTrial.digest).where(SweepTrial.sweep_id == sweep_id)
        failed = Trial.digest.in_(listed) & (Trial.state == TrialState.FAILED)
        if digest is not None:
            _check_listed(connection, sweep_id, digest)
            failed &= Trial.digest == digest
        return requeue(connection, failed, failures=0, preemptions=0, error=None)


def add_seeds(connection: Connection, sweep_id: str, seeds: int, top: int | None = None) -> None:
    """Makes a finished sweep active again, to train its settings with so many more seeds.

    Args:     top: confirms only so many of the best settings of each answer
    Raises:   SpecError: the sweep is unknown or not finished, it has a confirm stage and `top`
              is given, or another version stored it
    """
    check_is_current(sweep_id)
    with noted(connection, "extend", sweep_id):
        _extend(connection, sweep_id, Extension(seeds=seeds, top=top))


def _extend(connection: Connection, sweep_id: str, extension: Extension) -> None:
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
    stored = spec.model_dump(mode="json")
    fresh = {"state": SweepState.ACTIVE, "finished_at": None, "resumed_at": db_time()}
    _set(connection, sweep_id, spec=stored, **fresh)


def set_priority(connection: Connection, sweep_id: str, priority: int) -> int:
    """Sets the priority; sweeps of higher priority start first. Running trials continue."""
    with noted(connection, "priority", sweep_id):
        locked_state(connection, sweep_id)
        _set(connection, sweep_id, priority=priority)
        return _unfinished(connection, sweep_id)


def order(
    connection: Connection,
    digest: str,
    order: Order | None,
    reason: str | None = None,
    *,
    for_sweep: str | None = None,
) -> TrialState:
    """Gives an order to one trial, for every sweep that lists it; returns the trial's state.

    PAUSE: the trial writes a checkpoint and waits. STOP: it ends as STOPPED with `reason` and keeps
    its checkpoint; if it is trained already, it is still evaluated. CANCEL: it ends as CANCELLED.
    None lifts the order, and a stopped or cancelled trial resumes from its checkpoint. A worker
    that holds the trial learns of the order at its next heartbeat.

    Args:     for_sweep: the sweep that gives the order; it has no effect on a trial that another
                         active or paused sweep also lists
    Raises:   SpecError: the trial is unknown, or `order` is None and the trial has failed, which
              needs `retry_failed`
    """
    if for_sweep is not None and _is_shared(connection, digest, for_sweep):
        return trial_state(connection, digest)
    state = connection.execute(
        select(Trial.state).where(Trial.digest == digest).with_for_update()
    ).scalar_one_or_none()
    if state is None:
        raise unknown_trial(digest)
    if order is None:
        _take_up_again(connection, digest, state)
    elif not state.is_final:
        stop_reason = reason if order is Order.STOP else None
        set_trial(connection, digest, ordered=order, stop_reason=stop_reason)
        end_unwanted(connection, digest)
    return trial_state(connection, digest)


def _is_shared(connection: Connection, digest: str, sweep_id: str) -> bool:
    """Whether a sweep other than this one wants the trial trained."""
    others = (
        select(Sweep.sweep_id)
        .join(SweepTrial, SweepTrial.sweep_id == Sweep.sweep_id)
        .where(
            SweepTrial.digest == digest, Sweep.sweep_id != sweep_id, Sweep.state.in_(WANT_TRAINING)
        )
        .limit(1)
    )
    return connection.execute(others).one_or_none() is not None


def _order_in(
    connection: Connection, sweep_id: str, digest: str, given: Order | None, reason: str = ""
) -> int:
    """Orders a trial of this sweep; returns whether that changed something, as 0 or 1.

    Raises:   SpecError: the sweep does not list the trial, or its state does not allow the order
    """
    of_sweep = locked_state(connection, sweep_id)
    _check_listed(connection, sweep_id, digest)
    state, ordered = connection.execute(
        select(Trial.state, Trial.ordered).where(Trial.digest == digest).with_for_update()
    ).one()
    if state is TrialState.CANCELLED and given is Order.CANCEL:
        # It may have been cancelled with its sweep only, and then a new sweep would revive it.
        set_trial(connection, digest, ordered=given)
    done, ends_as = EFFECTS[given]
    if state is ends_as or (given is ordered and not state.is_final):
        return 0
    if state.is_final and (given is not None or state is TrialState.COMPLETED):
        raise SpecError(f"trial {digest} is {state} and cannot be {done}")
    if order(connection, digest, given, reason).is_final and given is None:
        raise SpecError(f"sweep {sweep_id} is {of_sweep}, and no other sweep wants trial {digest}")
    return 1


def _take_up_again(connection: Connection, digest: str, state: TrialState) -> None:
    """Lifts the order; a stopped or cancelled trial is queued again and resumes its checkpoint."""
    if state is TrialState.FAILED:
        raise SpecError(f"trial {digest} failed; queue it again with `evenload sweep retry`")
    set_trial(connection, digest, ordered=None, stop_reason=None)
    if state in (TrialState.STOPPED, TrialState.CANCELLED):
        requeue(connection, Trial.digest == digest)
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


def _turn(connection: Connection, sweep_id: str, state: SweepState, **values: object) -> int:
    """Moves the sweep into a state; returns its unfinished trials, 0 if it was in that state."""
    found = locked_state(connection, sweep_id)
    if found is state:
        return 0
    if found not in ALLOWED[state]:
        raise SpecError(
            f"sweep {sweep_id} is {found} and cannot become {state}; "
            f"only sweeps that are {' or '.join(ALLOWED[state])} can"
        )
    _set(connection, sweep_id, state=state, **values)
    return _unfinished(connection, sweep_id)


def _unfinished(connection: Connection, sweep_id: str) -> int:
    counted = select(func.count()).where(SweepTrial.sweep_id == sweep_id, is_unfinished())
    return connection.execute(counted.select_from(SweepTrial)).scalar_one()


def _set(connection: Connection, sweep_id: str, **values: object) -> None:
    connection.execute(update(Sweep).where(Sweep.sweep_id == sweep_id).values(**values))
