"""Trials of the same sweep that may train together with a given one."""

from typing import NamedTuple

from sqlalchemy import Connection, func, or_, select

from evenload.pipeline.states import WorkKind
from evenload.pipeline.store.conditions import ACTIVE_FOR, HELD, WAITING, is_not_held_back
from evenload.pipeline.store.models import Sweep, SweepTrial, Trial

WAITS, TRAINS = WAITING[WorkKind.TRAIN], HELD[WorkKind.TRAIN]


class Stackable(NamedTuple):
    """The trials that can train in one stack with another one, apart from that one."""

    untrained: int  # how many wait or are being trained
    last: list[str]  # digests of those that wait and would start last, the very last one first


def stackable_trials(connection: Connection, digest: str, limit: int) -> Stackable:
    """Trials of the same shape in the trial's sweeps with `stacking: auto`. It claims none of them.

    Args:     limit: names at most so many
    """
    sweeps = connection.execute(
        select(Sweep.sweep_id, Sweep.spec, Trial.shape)
        .join(SweepTrial, SweepTrial.sweep_id == Sweep.sweep_id)
        .join(Trial, Trial.digest == SweepTrial.digest)
        .where(SweepTrial.digest == digest, Sweep.state.in_(ACTIVE_FOR[WorkKind.TRAIN]))
    ).all()
    stacking = [row.sweep_id for row in sweeps if row.spec.get("stacking") == "auto"]
    if not stacking or sweeps[0].shape is None:
        return Stackable(0, [])
    waits = (Trial.state == WAITS) & is_not_held_back(WorkKind.TRAIN)
    alike = (
        select(Trial.digest)
        .join(SweepTrial, SweepTrial.digest == Trial.digest)
        .where(
            Trial.state.in_((WAITS, TRAINS)),
            Trial.shape == sweeps[0].shape,
            Trial.digest != digest,
            SweepTrial.sweep_id.in_(stacking),
            or_(Trial.state == TRAINS, waits),
        )
        .group_by(Trial.digest)
    )
    untrained = connection.execute(select(func.count()).select_from(alike.subquery())).scalar_one()
    last = alike.where(waits).order_by(func.max(SweepTrial.position).desc()).limit(limit)
    return Stackable(untrained, list(connection.execute(last).scalars()))
