"""The tables of the store.

The lease on a trial is the row of `attempt` in state RUNNING, and nothing else. Invariant: a trial
is TRAINING or EVALUATING exactly as long as its newest attempt is RUNNING.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Enum, ForeignKey, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from evenload.pipeline.states import AttemptState, Order, Stage, SweepState, TrialState, WorkKind
from evenload.pipeline.store.columns import AnyNumber, AnyText, Json, UtcDateTime


def _plain_enum(kind: type[StrEnum]) -> Enum:
    """An enum stored by value as a plain string, so that a new state needs no migration."""
    return Enum(
        kind,
        native_enum=False,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )


ENUMS = (SweepState, TrialState, AttemptState, WorkKind, Stage, Order)


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: AnyText(),
        float: AnyNumber(),
        datetime: UtcDateTime(),
        dict[str, Any]: Json(),
        **{kind: _plain_enum(kind) for kind in ENUMS},
    }


class Sweep(Base):
    __tablename__ = "sweep"

    sweep_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    spec: Mapped[dict[str, Any]]
    state: Mapped[SweepState]
    is_expanded: Mapped[bool]  # whether its trials are listed
    max_retries: Mapped[int]
    max_preemptions: Mapped[int] = mapped_column(default=20)
    priority: Mapped[int] = mapped_column(default=0)  # sweeps of higher priority start first
    note: Mapped[str | None]  # why the program paused the sweep; None if a user did
    submitter: Mapped[str] = mapped_column(default="")  # workers are shared evenly among them
    resumed_at: Mapped[datetime | None]
    parent_run_id: Mapped[str | None]
    basis: Mapped[dict[str, Any] | None]  # versions of the data and code of its trials, by name
    limits: Mapped[dict[str, Any] | None]  # of its time and that of its trials, as in its spec
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Trial(Base):
    """One row per digest. Sweeps that list the same digest share the trial."""

    __tablename__ = "trial"
    __table_args__ = (Index("trial_by_state", "state", "shape"),)

    digest: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str]
    spec: Mapped[dict[str, Any]]
    state: Mapped[TrialState]
    attempt: Mapped[int]  # number of the newest attempt, 0 before the first
    failures: Mapped[int]
    preemptions: Mapped[int] = mapped_column(default=0)
    ordered: Mapped[Order | None]  # given to this trial by a user or a stopping policy
    stop_reason: Mapped[str | None]
    extends: Mapped[str | None]  # digest of the trial whose checkpoint this one starts from
    shape: Mapped[str | None]  # equal for trials that can train in one stack; None: it trains alone
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any]]
    error: Mapped[str | None]
    run_id: Mapped[str | None]
    checkpoint_uri: Mapped[str | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class SweepTrial(Base):
    """Which trials a sweep lists, and in which order."""

    __tablename__ = "sweep_trial"
    __table_args__ = (
        Index("sweep_trial_by_digest", "digest"),
        Index("sweep_trial_in_order", "sweep_id", "position"),
    )

    sweep_id: Mapped[str] = mapped_column(ForeignKey("sweep.sweep_id"), primary_key=True)
    digest: Mapped[str] = mapped_column(ForeignKey("trial.digest"), primary_key=True)
    position: Mapped[int]
    stage: Mapped[Stage] = mapped_column(default=Stage.TUNE)


class Attempt(Base):
    __tablename__ = "attempt"
    __table_args__ = (
        Index("attempt_by_state", "state", "lease_until"),
        Index("attempt_by_end", "ended_at"),
    )

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


class CurveRow(Base):
    """The held-out loss of a trial at one step of its training, for stopping policies."""

    __tablename__ = "curve"

    digest: Mapped[str] = mapped_column(ForeignKey("trial.digest"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    tokens: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    val_loss: Mapped[float]
    max_vio: Mapped[float]


class PresenceRow(Base):
    """One row per living coordinator or worker."""

    __tablename__ = "presence"

    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    facts: Mapped[dict[str, Any]]


class Deed(Base):
    """One row per verb that somebody used or alarm that was sent. Deleting its sweep keeps it."""

    __tablename__ = "deed"

    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    who: Mapped[str]
    verb: Mapped[str] = mapped_column(String(16))
    sweep_id: Mapped[str]
    digest: Mapped[str | None]
