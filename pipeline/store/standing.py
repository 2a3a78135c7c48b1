"""What states mean together: which trials are wanted, waiting and unfinished."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, exists, select, update

from pipeline.records import SweepState, TrialState, WorkKind
from pipeline.store.columns import db_time
from pipeline.store.models import Sweep, SweepTrial, Trial

WAITING = {WorkKind.TRAIN: TrialState.QUEUED, WorkKind.EVAL: TrialState.TRAINED}
HELD = {WorkKind.TRAIN: TrialState.TRAINING, WorkKind.EVAL: TrialState.EVALUATING}
KEEPING = (SweepState.ACTIVE, SweepState.PAUSED)  # sweeps that keep their trials waiting
FINAL = tuple(state for state in TrialState if state.is_final)


def is_wanted_by(*states: SweepState) -> ColumnElement[bool]:
    """A sweep in one of these states lists the trial of the enclosing statement."""
    return exists().where(
        SweepTrial.digest == Trial.digest,
        SweepTrial.sweep_id == Sweep.sweep_id,
        Sweep.state.in_(states),
    )


def is_unfinished() -> ColumnElement[bool]:
    """The trial of the enclosing statement's `SweepTrial` is not final."""
    return exists().where(Trial.digest == SweepTrial.digest, Trial.state.not_in(FINAL))


def cancel_unwanted(connection: Connection, digest: str | None = None) -> None:
    """Waiting trials, or this one, that no active or paused sweep lists any more are cancelled.

    Trials that a worker holds are not touched: their next heartbeat says STOP, and giving them
    back leads here.
    """
    unwanted = Trial.state.in_(list(WAITING.values())) & ~is_wanted_by(*KEEPING)
    if digest is not None:
        unwanted &= Trial.digest == digest
    connection.execute(
        update(Trial).where(unwanted).values(state=TrialState.CANCELLED, finished_at=db_time())
    )


def trial_state(connection: Connection, digest: str) -> TrialState:
    return connection.execute(select(Trial.state).where(Trial.digest == digest)).scalar_one()
