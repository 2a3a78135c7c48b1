"""Trials that wait beside one another in a sweep that lets trials train together."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from pipeline.records import WorkKind
from pipeline.store.models import Sweep, SweepTrial, Trial
from pipeline.store.standing import WAITING, WORKING, is_free


def waiting_siblings(connection: Connection, digest: str) -> list[tuple[str, dict[str, Any]]]:
    """Digest and spec of the other trials that wait for training in the sweeps of this one."""
    sweeps = connection.execute(
        select(Sweep.sweep_id, Sweep.spec)
        .join(SweepTrial, SweepTrial.sweep_id == Sweep.sweep_id)
        .where(SweepTrial.digest == digest, Sweep.state.in_(WORKING[WorkKind.TRAIN]))
    ).all()
    stacking = [sweep_id for sweep_id, spec in sweeps if spec.get("stacking") == "auto"]
    rows = connection.execute(
        select(Trial.digest, Trial.spec)
        .join(SweepTrial, SweepTrial.digest == Trial.digest)
        .where(
            SweepTrial.sweep_id.in_(stacking),
            Trial.digest != digest,
            Trial.state == WAITING[WorkKind.TRAIN],
            is_free(WorkKind.TRAIN),
        )
        .order_by(SweepTrial.position)
    )
    return list({row.digest: row.spec for row in rows}.items())
