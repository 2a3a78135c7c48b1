"""Conditions over the states of trials and sweeps: which trials wait, may run or are unfinished."""

import re
from functools import cache

from sqlalchemy import ColumnElement, Connection, Update, case, exists, func, or_, select, update

from evenload.pipeline.errors import SpecError
from evenload.pipeline.states import Order, SweepState, TrialState, WorkKind
from evenload.pipeline.store.columns import db_time
from evenload.pipeline.store.models import Sweep, SweepTrial, Trial

WAITING = {WorkKind.TRAIN: TrialState.QUEUED, WorkKind.EVAL: TrialState.TRAINED}
HELD = {WorkKind.TRAIN: TrialState.TRAINING, WorkKind.EVAL: TrialState.EVALUATING}
# Sweeps in these states have their trials worked on. A stopping sweep still evaluates its models.
ACTIVE_FOR = {
    WorkKind.TRAIN: (SweepState.ACTIVE,),
    WorkKind.EVAL: (SweepState.ACTIVE, SweepState.STOPPING),
}
# Orders that forbid a kind of work on a trial.
BLOCKING_ORDERS = {
    WorkKind.TRAIN: (Order.PAUSE, Order.STOP, Order.CANCEL),
    WorkKind.EVAL: (Order.PAUSE, Order.CANCEL),
}
WANT_TRAINING = (SweepState.ACTIVE, SweepState.PAUSED)  # these sweeps train, now or later
WANT_EVALUATION = (*WANT_TRAINING, SweepState.STOPPING)
FINAL = tuple(state for state in TrialState if state.is_final)
UNFINISHED = tuple(state for state in TrialState if not state.is_final)  # IN can use an index


@cache
def is_listed_by(*states: SweepState) -> ColumnElement[bool]:
    """Whether a sweep in one of these states lists the trial of the enclosing statement."""
    return exists().where(
        SweepTrial.digest == Trial.digest,
        SweepTrial.sweep_id == Sweep.sweep_id,
        Sweep.state.in_(states),
    )


@cache
def may_run(kind: WorkKind) -> ColumnElement[bool]:
    """Whether a sweep wants this work done on the trial now and no order forbids it."""
    return is_listed_by(*ACTIVE_FOR[kind]) & is_not_held_back(kind)


@cache
def is_not_held_back(kind: WorkKind) -> ColumnElement[bool]:
    """Whether no order forbids this work on the trial."""
    return or_(Trial.ordered.is_(None), Trial.ordered.not_in(BLOCKING_ORDERS[kind]))


@cache
def is_unfinished() -> ColumnElement[bool]:
    """Whether the trial of the enclosing statement's `SweepTrial` is not final."""
    return exists().where(Trial.digest == SweepTrial.digest, Trial.state.not_in(FINAL))


def end_unwanted(connection: Connection, digest: str | None = None) -> None:
    """Cancels or stops waiting trials that no sweep needs or that an order ends.

    Trials that a worker holds are left alone. The worker learns from its next heartbeat that it
    must release the trial, and the release calls this function. On PostgreSQL a release at the same
    moment as a verb may have read the sweep as it was before, so the coordinator calls it, too.

    Args:     digest: only this trial; None: all trials
    """
    chosen = Trial.digest == digest if digest is not None else Trial.digest.is_not(None)
    for ending in _endings():
        connection.execute(ending.where(chosen))


@cache
def _endings() -> tuple[Update, Update]:
    waiting = Trial.state.in_(list(WAITING.values()))
    unwanted = or_(Trial.ordered == Order.CANCEL, ~is_listed_by(*WANT_EVALUATION))
    no_further = or_(Trial.ordered == Order.STOP, ~is_listed_by(*WANT_TRAINING))
    # Whoever cancelled this trial, and not only its sweep, wants it to stay so.
    by_user = case((Trial.ordered == Order.CANCEL, Trial.ordered), else_=None)
    reason = func.coalesce(Trial.stop_reason, "its sweep was stopped")
    return (
        update(Trial)
        .where(waiting, unwanted)
        .values(state=TrialState.CANCELLED, ordered=by_user, finished_at=db_time()),
        update(Trial)
        .where(Trial.state == TrialState.QUEUED, no_further)
        .values(state=TrialState.STOPPED, stop_reason=reason, ordered=None, finished_at=db_time()),
    )


def trial_state(connection: Connection, digest: str) -> TrialState:
    return connection.execute(select(Trial.state).where(Trial.digest == digest)).scalar_one()


def set_trial(connection: Connection, digest: str, **values: object) -> None:
    connection.execute(update(Trial).where(Trial.digest == digest).values(**values))


def locked_state(connection: Connection, sweep_id: str) -> SweepState:
    """The sweep's state. Its row stays locked until the transaction ends.  Raises: SpecError"""
    state = connection.execute(
        select(Sweep.state).where(Sweep.sweep_id == sweep_id).with_for_update()
    ).scalar_one_or_none()
    if state is None:
        raise unknown_sweep(sweep_id)
    return state


def unknown_sweep(sweep_id: str) -> SpecError:
    return SpecError(f"sweep_id={sweep_id!r} is unknown; `evenload sweep list` shows all")


def cancelled(sweep_id: str) -> SpecError:
    return SpecError(f"sweep {sweep_id} was cancelled; run it under another name")


def check_is_current(sweep_id: str) -> None:
    """Raises: SpecError: the id is that of a former version, whose data or code is gone"""
    if former := re.fullmatch(r"(.*-[0-9a-f]{6})\.v\d+", sweep_id):
        raise SpecError(
            f"{sweep_id} is a former version of {former[1]}: it keeps its results, and gets no "
            f"more; go on with {former[1]}"
        )


def unknown_trial(digest: str) -> SpecError:
    return SpecError(
        f"digest={digest!r} is unknown; `evenload sweep status` with --json shows digests"
    )
