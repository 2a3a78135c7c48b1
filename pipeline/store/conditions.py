"""What states mean together: which trials are wanted, waiting and unfinished."""

from __future__ import annotations

from functools import cache

from sqlalchemy import ColumnElement, Connection, Update, exists, func, or_, select, update

from evenload.pipeline.errors import SpecError
from evenload.pipeline.states import Order, SweepState, TrialState, WorkKind
from evenload.pipeline.store.columns import db_time
from evenload.pipeline.store.models import Sweep, SweepTrial, Trial

WAITING = {WorkKind.TRAIN: TrialState.QUEUED, WorkKind.EVAL: TrialState.TRAINED}
HELD = {WorkKind.TRAIN: TrialState.TRAINING, WorkKind.EVAL: TrialState.EVALUATING}
# Sweeps that have work of a kind done; a stopping one still wants to know how good its models are.
ACTIVE_FOR = {
    WorkKind.TRAIN: (SweepState.ACTIVE,),
    WorkKind.EVAL: (SweepState.ACTIVE, SweepState.STOPPING),
}
# Orders that hold a kind of work back.
BLOCKING_ORDERS = {
    WorkKind.TRAIN: (Order.PAUSE, Order.STOP, Order.CANCEL),
    WorkKind.EVAL: (Order.PAUSE, Order.CANCEL),
}
WANT_TRAINING = (
    SweepState.ACTIVE,
    SweepState.PAUSED,
)  # sweeps that want training, now or later
WANT_TRIALS = (*WANT_TRAINING, SweepState.STOPPING)  # sweeps that keep trained trials waiting
FINAL = tuple(state for state in TrialState if state.is_final)


@cache
def is_listed_by(*states: SweepState) -> ColumnElement[bool]:
    """A sweep in one of these states lists the trial of the enclosing statement."""
    return exists().where(
        SweepTrial.digest == Trial.digest,
        SweepTrial.sweep_id == Sweep.sweep_id,
        Sweep.state.in_(states),
    )


@cache
def may_run(kind: WorkKind) -> ColumnElement[bool]:
    """A sweep wants this work on the trial done now, and no order holds the trial back."""
    return is_listed_by(*ACTIVE_FOR[kind]) & is_not_held_back(kind)


@cache
def is_not_held_back(kind: WorkKind) -> ColumnElement[bool]:
    """No order holds this work on the trial back."""
    return or_(Trial.ordered.is_(None), Trial.ordered.not_in(BLOCKING_ORDERS[kind]))


@cache
def is_unfinished() -> ColumnElement[bool]:
    """The trial of the enclosing statement's `SweepTrial` is not final."""
    return exists().where(Trial.digest == SweepTrial.digest, Trial.state.not_in(FINAL))


def end_unwanted(connection: Connection, digest: str | None = None) -> None:
    """Ends waiting trials, or this one: cancelled or stopped, as their sweeps or an order say.

    Trials that a worker holds are not touched: their next heartbeat tells the worker, and giving
    them back leads here.
    """
    one = Trial.digest == digest if digest is not None else Trial.digest.is_not(None)
    for ending in _endings():
        connection.execute(ending.where(one))


@cache
def _endings() -> tuple[Update, Update]:
    waiting = Trial.state.in_(list(WAITING.values()))
    unwanted = or_(Trial.ordered == Order.CANCEL, ~is_listed_by(*WANT_TRIALS))
    no_further = or_(Trial.ordered == Order.STOP, ~is_listed_by(*WANT_TRAINING))
    ended = {"ordered": None, "finished_at": db_time()}
    reason = func.coalesce(Trial.stop_reason, "its sweep was stopped")
    return (
        update(Trial).where(waiting, unwanted).values(state=TrialState.CANCELLED, **ended),
        update(Trial)
        .where(Trial.state == TrialState.QUEUED, no_further)
        .values(state=TrialState.STOPPED, stop_reason=reason, **ended),
    )


def trial_state(connection: Connection, digest: str) -> TrialState:
    return connection.execute(select(Trial.state).where(Trial.digest == digest)).scalar_one()


def unknown_sweep(sweep_id: str) -> SpecError:
    return SpecError(f"sweep_id={sweep_id!r} is unknown; `evenload sweep list` shows all")


def unknown_trial(digest: str) -> SpecError:
    return SpecError(f"digest={digest!r} is no trial of this store")
