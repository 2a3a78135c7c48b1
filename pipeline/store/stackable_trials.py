"""Trials of the same sweep that may train together with a given one."""

from typing import NamedTuple

from sqlalchemy import Connection, or_, select

from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.conditions import ACTIVE_FOR, HELD, WAITING, is_not_held_back
from evenload.pipeline.store.models import Sweep, SweepTrial, Trial

WAITS, TRAINS = WAITING[WorkKind.TRAIN], HELD[WorkKind.TRAIN]


class Stackable(NamedTuple):
    """The trials that can train in one stack with another one, apart from that one."""

    untrained: int  # how many of those that were read wait or are being trained
    last: list[str]  # digests of those that wait, the one that would start last first


def stackable_trials(connection: Connection, digest: str, limit: int) -> Stackable:
    """Trials of the same shape in the trial's sweeps with `stacking: auto`. It claims none of them.

    Args:     limit: reads at most so many of each sweep, those that would start last
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
    found: dict[str, TrialState] = {}
    for sweep_id in stacking:  # one by one, because each is read along its index, from its end
        alike = (
            select(Trial.digest, Trial.state)
            .join(SweepTrial, SweepTrial.digest == Trial.digest)
            .where(
                SweepTrial.sweep_id == sweep_id,
                Trial.shape == sweeps[0].shape,
                Trial.digest != digest,
                or_(Trial.state == TRAINS, waits),
            )
            .order_by(SweepTrial.position.desc())
            .limit(limit)
        )
        found |= {row.digest: row.state for row in connection.execute(alike)}
    return Stackable(len(found), [name for name, state in found.items() if state is WAITS])
