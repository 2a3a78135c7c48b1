"""Removes sweeps and the trials that no other sweep lists."""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, exists, select
from sqlalchemy.orm import aliased

from evenload.pipeline.errors import SpecError
from evenload.pipeline.states import SweepState, TrialState
from evenload.pipeline.store.conditions import HELD, locked_state
from evenload.pipeline.store.deeds import noted
from evenload.pipeline.store.models import Attempt, CurveRow, Sweep, SweepTrial, Trial

AT_REST = (SweepState.PAUSED, SweepState.CANCELLED, SweepState.FINISHED)


def deletable(connection: Connection, sweep_id: str) -> list[str]:
    """The digests that `delete` would remove.  Raises: SpecError: as `delete`"""
    state = locked_state(connection, sweep_id)
    if state not in AT_REST:
        raise SpecError(f"sweep {sweep_id} is {state}; pause or cancel it before you delete it")
    others = aliased(SweepTrial)
    shared = exists().where(others.digest == SweepTrial.digest, others.sweep_id != sweep_id)
    rows = connection.execute(
        select(Trial.digest, Trial.state)
        .join(SweepTrial, SweepTrial.digest == Trial.digest)
        .where(SweepTrial.sweep_id == sweep_id, ~shared)
        .order_by(SweepTrial.position)
    ).all()
    held = [row.digest for row in rows if row.state in HELD.values()]
    if held:
        raise SpecError(
            f"a worker still holds trial {held[0]} of sweep {sweep_id}; wait until it is released"
        )
    digests = [row.digest for row in rows]
    _refuse_parents(connection, digests)
    return digests


def delete_sweep(connection: Connection, sweep_id: str) -> list[str]:
    """Removes a sweep and the trials that no other sweep lists; returns their digests.

    Raises:   SpecError: the sweep is neither over nor paused, a worker holds one of the trials, or
              a trial of another sweep extends one of them
    """
    with noted(connection, "delete", sweep_id):
        digests = deletable(connection, sweep_id)
        connection.execute(delete(SweepTrial).where(SweepTrial.sweep_id == sweep_id))
        for table in (CurveRow, Attempt, Trial):
            connection.execute(delete(table).where(table.digest.in_(digests)))
        connection.execute(delete(Sweep).where(Sweep.sweep_id == sweep_id))
        return digests


def unlisted(connection: Connection) -> Sequence[Row[str, TrialState, str | None]]:
    """Trials that no sweep lists, that nobody holds and that no other trial extends."""
    found = select(Trial.digest, Trial.state, Trial.run_id).where(_is_unlisted())
    return connection.execute(found.order_by(Trial.digest)).all()


def delete_unlisted(connection: Connection, digests: Collection[str]) -> list[str]:
    """Removes those of these trials that `unlisted` finds; returns their digests."""
    chosen = select(Trial.digest).where(Trial.digest.in_(digests), _is_unlisted())
    found = list(connection.execute(chosen.with_for_update()).scalars())
    for table in (CurveRow, Attempt, Trial):
        connection.execute(delete(table).where(table.digest.in_(found)))
    return found


def _is_unlisted() -> ColumnElement[bool]:
    child = aliased(Trial)
    return and_(
        ~exists().where(SweepTrial.digest == Trial.digest),
        ~exists().where(child.extends == Trial.digest),
        Trial.state.not_in(list(HELD.values())),
    )


def _refuse_parents(connection: Connection, digests: list[str]) -> None:
    """Also a finished extension needs its parents: running its sweep again looks them up."""
    child = connection.execute(
        select(Trial.digest, Trial.extends, SweepTrial.sweep_id)
        .join(SweepTrial, SweepTrial.digest == Trial.digest)
        .where(Trial.extends.in_(digests), Trial.digest.not_in(digests))
        .limit(1)
    ).one_or_none()
    if child is not None:
        raise SpecError(
            f"trial {child.digest} of sweep {child.sweep_id} continues trial {child.extends}; "
            f"delete {child.sweep_id} first"
        )
    for sweep_id, parents in _submitted_extensions(connection):
        if wanted := set(parents) & set(digests):
            raise SpecError(
                f"sweep {sweep_id}, which waits for its start, continues trial {wanted.pop()}; "
                f"delete {sweep_id} first"
            )


def _submitted_extensions(connection: Connection) -> list[tuple[str, list[str]]]:
    """Sweeps whose trials are not listed yet, with the trials that those will continue."""
    waiting = select(Sweep.sweep_id, Sweep.spec).where(
        Sweep.is_expanded.is_(False), Sweep.state != SweepState.CANCELLED
    )
    found = [(row.sweep_id, row.spec["axes"].get("extends")) for row in connection.execute(waiting)]
    return [(sweep_id, parents) for sweep_id, parents in found if isinstance(parents, list)]
