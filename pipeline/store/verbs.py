"""What a user may do to a sweep: pause, resume, cancel, retry."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from pipeline.errors import SpecError
from pipeline.records import SweepState, TrialState
from pipeline.store.columns import db_time
from pipeline.store.models import Sweep, SweepTrial, Trial
from pipeline.store.standing import cancel_unwanted


def pause(connection: Connection, sweep_id: str) -> None:
    _turn(connection, sweep_id, SweepState.PAUSED, allowed=(SweepState.ACTIVE,))


def resume(connection: Connection, sweep_id: str) -> None:
    _turn(connection, sweep_id, SweepState.ACTIVE, allowed=(SweepState.PAUSED,))


def cancel(connection: Connection, sweep_id: str) -> None:
    allowed = (SweepState.ACTIVE, SweepState.PAUSED)
    _turn(connection, sweep_id, SweepState.CANCELLED, allowed)
    cancel_unwanted(connection)


def retry_failed(connection: Connection, sweep_id: str) -> int:
    state = _state(connection, sweep_id)
    if state is SweepState.CANCELLED:
        raise SpecError(f"sweep {sweep_id} is cancelled; run it under another name")
    listed = select(SweepTrial.digest).where(SweepTrial.sweep_id == sweep_id)
    retried = connection.execute(
        update(Trial)
        .where(Trial.digest.in_(listed), Trial.state == TrialState.FAILED)
        .values(state=TrialState.QUEUED, failures=0, error=None, finished_at=None)
    ).rowcount
    if retried and state is SweepState.FINISHED:
        _set_state(connection, sweep_id, SweepState.ACTIVE)
    return retried


def _turn(
    connection: Connection, sweep_id: str, state: SweepState, allowed: tuple[SweepState, ...]
) -> None:
    """Into a state from one of `allowed`. A sweep that is in it already stays: verbs repeat."""
    found = _state(connection, sweep_id)
    if found is state:
        return
    if found not in allowed:
        raise SpecError(
            f"sweep {sweep_id} is {found}, it cannot become {state}; "
            f"only a sweep that is {' or '.join(allowed)} can"
        )
    _set_state(connection, sweep_id, state)


def _state(connection: Connection, sweep_id: str) -> SweepState:
    state = connection.execute(
        select(Sweep.state).where(Sweep.sweep_id == sweep_id).with_for_update()
    ).scalar_one_or_none()
    if state is None:
        raise unknown_sweep(sweep_id)
    return state


def _set_state(connection: Connection, sweep_id: str, state: SweepState) -> None:
    over = state in (SweepState.CANCELLED, SweepState.FINISHED)
    connection.execute(
        update(Sweep)
        .where(Sweep.sweep_id == sweep_id)
        .values(state=state, finished_at=db_time() if over else None)
    )


def unknown_sweep(sweep_id: str) -> SpecError:
    return SpecError(f"sweep_id={sweep_id!r} is unknown; `evenload sweep list` shows all")
