"""The tables. A row of `attempt` in state RUNNING is the lease on its trial; nothing else is.

Invariant: a trial is TRAINING or EVALUATING exactly as long as its newest attempt is RUNNING.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import Enum, ForeignKey, Index
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pipeline.records import AttemptState, SweepState, TrialState, WorkKind
from pipeline.store.columns import AnyText, Json, UtcDateTime


def _plain_enum(kind: type[StrEnum]) -> Enum:
    """Stored by value in a plain string: a new state needs no migration."""
    return Enum(
        kind,
        native_enum=False,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {
        str: AnyText(),
        datetime: UtcDateTime(),
        dict[str, Any]: Json(),
        SweepState: _plain_enum(SweepState),
        TrialState: _plain_enum(TrialState),
        AttemptState: _plain_enum(AttemptState),
        WorkKind: _plain_enum(WorkKind),
    }


class Sweep(Base):
    __tablename__ = "sweep"

    sweep_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    spec: Mapped[dict[str, Any]]
    state: Mapped[SweepState]
    is_expanded: Mapped[bool]  # its trials are listed
    max_retries: Mapped[int]
    parent_run_id: Mapped[str | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Trial(Base):
    """One per digest, whichever sweeps ask for it: it is trained once and shared."""

    __tablename__ = "trial"
    __table_args__ = (Index("trial_by_state", "state"),)

    digest: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str]
    spec: Mapped[dict[str, Any]]
    state: Mapped[TrialState]
    attempt: Mapped[int]  # of its newest attempt, 0 before the first
    failures: Mapped[int]
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any]]
    error: Mapped[str | None]
    run_id: Mapped[str | None]
    checkpoint_uri: Mapped[str | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class SweepTrial(Base):
    """Which trials a sweep lists, in its order."""

    __tablename__ = "sweep_trial"
    __table_args__ = (Index("sweep_trial_by_digest", "digest"),)

    sweep_id: Mapped[str] = mapped_column(ForeignKey("sweep.sweep_id"), primary_key=True)
    digest: Mapped[str] = mapped_column(ForeignKey("trial.digest"), primary_key=True)
    position: Mapped[int]


class Attempt(Base):
    __tablename__ = "attempt"
    __table_args__ = (Index("attempt_by_state", "state", "lease_until"),)

    digest: Mapped[str] = mapped_column(ForeignKey("trial.digest"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[WorkKind]
    worker: Mapped[str]
    state: Mapped[AttemptState]
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    lease_until: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    exit_reason: Mapped[str | None]
