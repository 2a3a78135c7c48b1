"""How sweeps and their trials enter the store."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, exists, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.errors import SpecError
from pipeline.records import SweepState, TrialState
from pipeline.spec import TrialSpec
from pipeline.store.columns import db_time
from pipeline.store.models import Base, Sweep, SweepTrial, Trial
from pipeline.store.standing import cancel_unwanted, is_unfinished
from pipeline.sweep_spec import SweepSpec


def submit(connection: Connection, spec: SweepSpec) -> str:
    """Stores a sweep whose trials are not listed yet."""
    sweep_id = spec.sweep_id()
    _insert_new(
        connection,
        Sweep,
        sweep_id=sweep_id,
        name=spec.name,
        spec=spec.model_dump(mode="json"),
        state=SweepState.ACTIVE,
        is_expanded=False,
        max_retries=spec.max_retries,
        created_at=db_time(),
    )
    _refuse_cancelled(connection, sweep_id)
    return sweep_id


def add_sweep(
    connection: Connection, spec: SweepSpec, trials: Sequence[tuple[str, TrialSpec]]
) -> str:
    sweep_id = submit(connection, spec)
    for digest, trial in trials:
        _insert_new(
            connection,
            Trial,
            digest=digest,
            label=trial.balancer.label,
            spec=trial.model_dump(mode="json"),
            state=TrialState.QUEUED,
            attempt=0,
            failures=0,
            result={},
            created_at=db_time(),
        )
    _list_trials(connection, sweep_id, list(dict.fromkeys(digest for digest, _ in trials)))
    _revive_cancelled_trials(connection, sweep_id)
    _reopen_if_unfinished(connection, sweep_id)
    cancel_unwanted(connection)
    return sweep_id


def _insert_new(connection: Connection, table: type[Base], **values: object) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(postgresql.insert(table).values(**values).on_conflict_do_nothing())
    else:
        connection.execute(sqlite.insert(table).values(**values).on_conflict_do_nothing())


def _refuse_cancelled(connection: Connection, sweep_id: str) -> None:
    """Locks the row as well: of two submissions at once one lists its trials first."""
    state = connection.execute(
        select(Sweep.state).where(Sweep.sweep_id == sweep_id).with_for_update()
    ).scalar_one()
    if state is SweepState.CANCELLED:
        raise SpecError(f"sweep {sweep_id} was cancelled; run it under another name")


def _list_trials(connection: Connection, sweep_id: str, digests: list[str]) -> None:
    """Replaces the list: new data or a new numerical core gave the same sweep other trials."""
    connection.execute(delete(SweepTrial).where(SweepTrial.sweep_id == sweep_id))
    rows = [
        {"sweep_id": sweep_id, "digest": digest, "position": position}
        for position, digest in enumerate(digests)
    ]
    connection.execute(insert(SweepTrial), rows)
    connection.execute(update(Sweep).where(Sweep.sweep_id == sweep_id).values(is_expanded=True))


def _revive_cancelled_trials(connection: Connection, sweep_id: str) -> None:
    """Another sweep's cancel does not keep this one from its trials."""
    listed = select(SweepTrial.digest).where(SweepTrial.sweep_id == sweep_id)
    connection.execute(
        update(Trial)
        .where(Trial.digest.in_(listed), Trial.state == TrialState.CANCELLED)
        .values(state=TrialState.QUEUED, finished_at=None)
    )


def _reopen_if_unfinished(connection: Connection, sweep_id: str) -> None:
    connection.execute(
        update(Sweep)
        .where(
            Sweep.sweep_id == sweep_id,
            Sweep.state == SweepState.FINISHED,
            exists().where(SweepTrial.sweep_id == sweep_id, is_unfinished()),
        )
        .values(state=SweepState.ACTIVE, finished_at=None)
    )
