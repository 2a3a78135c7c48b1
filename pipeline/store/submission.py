"""Adds sweeps and their trials to the store."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, exists, insert, select, update

from evenload.pipeline.errors import OtherVersion, SpecError
from evenload.pipeline.spec.stacking import stack_shape
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Stage, SweepState, TrialState
from evenload.pipeline.store.columns import db_time
from evenload.pipeline.store.conditions import cancelled, end_unwanted, is_unfinished, locked_state
from evenload.pipeline.store.deeds import noted, who
from evenload.pipeline.store.models import Sweep, SweepTrial, Trial
from evenload.pipeline.store.upserts import insert_new


def submit(connection: Connection, spec: SweepSpec) -> str:
    """Stores a sweep without trials; `evenload serve` lists them later (`admit`)."""
    with noted(connection, "submit", spec.sweep_id()):
        return _insert_sweep(connection, spec)


def _insert_sweep(connection: Connection, spec: SweepSpec) -> str:
    sweep_id = spec.sweep_id()
    insert_new(
        connection,
        Sweep,
        [{"sweep_id": sweep_id, "name": spec.name, "spec": spec.model_dump(mode="json")}],
        state=SweepState.ACTIVE,
        is_expanded=False,
        max_retries=spec.max_retries,
        max_preemptions=spec.max_preemptions,
        priority=spec.priority,
        submitter=who(),
        created_at=db_time(),
    )
    if locked_state(connection, sweep_id) is SweepState.CANCELLED:
        raise cancelled(sweep_id)
    _limit(connection, sweep_id, spec.limits_to_store().model_dump())
    return sweep_id


def _limit(connection: Connection, sweep_id: str, limits: dict[str, Any]) -> None:
    """Sets the limits. With other ones, what the former ones have ended goes on."""
    this = Sweep.sweep_id == sweep_id
    before = connection.execute(select(Sweep.limits).where(this)).scalar_one()
    connection.execute(update(Sweep).where(this).values(limits=limits))
    if before not in (None, limits):
        listed = select(SweepTrial.digest).where(SweepTrial.sweep_id == sweep_id)
        ended = (Trial.state == TrialState.STOPPED) & Trial.stop_reason.startswith("limits.")
        requeue(connection, Trial.digest.in_(listed) & ended, stop_reason=None)


def add_sweep(
    connection: Connection,
    spec: SweepSpec,
    trials: Sequence[tuple[str, TrialSpec]],
    basis: dict[str, str] | None = None,
    former: str | None = None,
) -> str:
    """Stores a sweep and its (digest, trial) pairs; returns its id. Idempotent.

    A trial whose digest is stored already is shared, so it is neither trained nor reported twice.

    Args:     basis: versions of what the digests cover beside the specs, by name
              former: what has changed, if the sweep may get other trials than it has. Those stay
                      as a sweep of their own, `<sweep_id>.v<n>`, with this text as its note
    Raises:   SpecError: the sweep was cancelled
              OtherVersion: it has other trials, and `former` is None; nothing was written
    """
    with noted(connection, "run", spec.sweep_id()):
        sweep_id = _insert_sweep(connection, spec)
        listed = _listed(connection, sweep_id)
        digests = [digest for digest, _ in trials]
        if listed and not set(digests) <= set(listed):
            if former is None:
                known = select(Sweep.basis).where(Sweep.sweep_id == sweep_id)
                raise OtherVersion(sweep_id, len(listed), connection.execute(known).scalar() or {})
            # Trials that were added later were derived from the old ones, so they go with them.
            _set_former_aside(connection, spec, former)
            listed = []
        if not listed:
            _list(connection, sweep_id, _insert_trials(connection, trials), Stage.TUNE, basis=basis)
        _take_up(connection, sweep_id)
        return sweep_id


def _set_former_aside(connection: Connection, spec: SweepSpec, note: str) -> None:
    """Gives what a sweep has to a sweep of its own, and leaves it as if it were new."""
    sweep_id = spec.sweep_id()
    starts = Sweep.sweep_id.startswith(f"{sweep_id}.v", autoescape=True)
    taken = connection.execute(select(Sweep.sweep_id).where(starts)).scalars()
    number = 1 + max((int(each.rpartition(".v")[2]) for each in taken), default=0)
    left = exists().where(SweepTrial.sweep_id == sweep_id, is_unfinished())
    is_open = connection.execute(select(left)).scalar_one()
    row = connection.execute(select(Sweep).where(Sweep.sweep_id == sweep_id)).mappings().one()
    ended = {
        "sweep_id": f"{sweep_id}.v{number}",
        "state": SweepState.CANCELLED if is_open else SweepState.FINISHED,
        "finished_at": row["finished_at"] or db_time(),
        "note": note,
    }
    connection.execute(insert(Sweep).values({**row, **ended}))
    listing = update(SweepTrial).where(SweepTrial.sweep_id == sweep_id)
    connection.execute(listing.values(sweep_id=ended["sweep_id"]))
    connection.execute(delete(Sweep).where(Sweep.sweep_id == sweep_id))
    _insert_sweep(connection, spec)


def admit(
    connection: Connection,
    sweep_id: str,
    trials: Sequence[tuple[str, TrialSpec]],
    basis: dict[str, str] | None = None,
) -> bool:
    """Lists the trials of a submitted sweep; False if the sweep is no longer active.

    Args:     basis: as for `add_sweep`
    Raises:   SpecError: an unknown sweep
    """
    if locked_state(connection, sweep_id) is not SweepState.ACTIVE:
        return False
    if not _listed(connection, sweep_id):
        _list(connection, sweep_id, _insert_trials(connection, trials), Stage.TUNE, basis=basis)
    _take_up(connection, sweep_id)
    return True


def add_trials(
    connection: Connection,
    sweep_id: str,
    trials: Sequence[tuple[str, TrialSpec]],
    stage: Stage = Stage.TUNE,
) -> int:
    """Appends trials to the sweep's list; returns how many were new to it.

    A finished sweep becomes active again.

    Raises:   SpecError: the sweep was stopped or cancelled
    """
    found = locked_state(connection, sweep_id)
    if found not in (SweepState.ACTIVE, SweepState.PAUSED, SweepState.FINISHED):
        raise SpecError(f"sweep {sweep_id} is {found} and takes no more trials")
    known = set(_listed(connection, sweep_id))
    new = [digest for digest in _insert_trials(connection, trials) if digest not in known]
    _list(connection, sweep_id, new, stage, first_position=len(known))
    _take_up(connection, sweep_id)
    return len(new)


def _take_up(connection: Connection, sweep_id: str) -> None:
    """Queues trials again that were cancelled together with another sweep, and starts the sweep."""
    listed = select(SweepTrial.digest).where(SweepTrial.sweep_id == sweep_id)
    with_their_sweep = (Trial.state == TrialState.CANCELLED) & Trial.ordered.is_(None)
    requeue(connection, Trial.digest.in_(listed) & with_their_sweep)
    reopen_unfinished(connection, Sweep.sweep_id == sweep_id)
    end_unwanted(connection)


def _insert_trials(connection: Connection, trials: Sequence[tuple[str, TrialSpec]]) -> list[str]:
    """Stores the trials that are new; returns all digests in their order, each once."""
    by_digest = dict(reversed(trials))
    insert_new(
        connection,
        Trial,
        [
            {
                "digest": digest,
                "label": trial.balancer.label,
                "spec": trial.model_dump(mode="json", exclude={"limits"}),  # they are the sweep's
                "extends": trial.extends,
                "shape": stack_shape(trial),
            }
            for digest, trial in by_digest.items()
        ],
        state=TrialState.QUEUED,
        attempt=0,
        failures=0,
        result={},
        created_at=db_time(),
    )
    return list(dict.fromkeys(digest for digest, _ in trials))


def _listed(connection: Connection, sweep_id: str) -> Sequence[str]:
    rows = select(SweepTrial.digest).where(SweepTrial.sweep_id == sweep_id)
    return connection.execute(rows).scalars().all()


def _list(
    connection: Connection,
    sweep_id: str,
    digests: list[str],
    stage: Stage,
    first_position: int = 0,
    **values: object,
) -> None:
    rows = [
        {"sweep_id": sweep_id, "digest": digest, "position": position, "stage": stage}
        for position, digest in enumerate(digests, first_position)
    ]
    if rows:
        connection.execute(insert(SweepTrial), rows)
    values["is_expanded"] = True
    connection.execute(update(Sweep).where(Sweep.sweep_id == sweep_id).values(values))


def requeue(connection: Connection, chosen: ColumnElement[bool], **values: object) -> int:
    """Queues the chosen final trials again; every finished sweep that lists one becomes active.

    Returns:  how many trials
    """
    queued = {"state": TrialState.QUEUED, "ordered": None, "finished_at": None, **values}
    changed = update(Trial).where(chosen).values(**queued).returning(Trial.digest)
    digests = connection.execute(changed).scalars().all()
    listing = select(SweepTrial.sweep_id).where(SweepTrial.digest.in_(digests))
    reopen_unfinished(connection, Sweep.sweep_id.in_(listing))
    return len(digests)


def reopen_unfinished(connection: Connection, chosen: ColumnElement[bool]) -> None:
    """Makes the chosen sweeps active that are finished and have an unfinished trial."""
    has_open = exists().where(SweepTrial.sweep_id == Sweep.sweep_id, is_unfinished())
    connection.execute(
        update(Sweep)
        .where(chosen, Sweep.state == SweepState.FINISHED, has_open)
        .values(state=SweepState.ACTIVE, finished_at=None)
    )
