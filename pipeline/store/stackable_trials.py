"""Trials of the same sweep that may train together with a given one."""

from typing import Any, NamedTuple

from sqlalchemy import Connection, or_, select

from evenload.pipeline.states import WorkKind
from evenload.pipeline.store.conditions import ACTIVE_FOR, HELD, WAITING, is_not_held_back
from evenload.pipeline.store.models import Sweep, SweepTrial, Trial

WAITS, TRAINS = WAITING[WorkKind.TRAIN], HELD[WorkKind.TRAIN]


class StackableTrial(NamedTuple):
    """A trial that may train in one stack with another, if their shapes agree."""

    digest: str
    spec: dict[str, Any]
    waits: bool  # False: another worker trains it


def stackable_trials(connection: Connection, digest: str) -> list[StackableTrial]:
    """Other trials, training or waiting for it, of the trial's sweeps with `stacking: auto`.

    They come in the order of their sweeps. This call claims none of them.
    """
    sweeps = connection.execute(
        select(Sweep.sweep_id, Sweep.spec)
        .join(SweepTrial, SweepTrial.sweep_id == Sweep.sweep_id)
        .where(SweepTrial.digest == digest, Sweep.state.in_(ACTIVE_FOR[WorkKind.TRAIN]))
    ).all()
    stacking = [sweep_id for sweep_id, spec in sweeps if spec.get("stacking") == "auto"]
    waits = (Trial.state == WAITS) & is_not_held_back(WorkKind.TRAIN)
    rows = connection.execute(
        select(Trial.digest, Trial.spec, Trial.state)
        .join(SweepTrial, SweepTrial.digest == Trial.digest)
        .where(
            SweepTrial.sweep_id.in_(stacking),
            Trial.digest != digest,
            or_(Trial.state == TRAINS, waits),
        )
        .order_by(SweepTrial.position)
    )
    found = [StackableTrial(row.digest, row.spec, row.state is WAITS) for row in rows]
    return list({trial.digest: trial for trial in found}.values())
