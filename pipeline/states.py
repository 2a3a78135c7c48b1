"""States of sweeps, trials and attempts, and what the store knows of each as a frozen record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class SweepState(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    STOPPING = "stopping"  # trains no further; what is trained is still evaluated
    CANCELLED = "cancelled"
    FINISHED = "finished"


class TrialState(StrEnum):
    QUEUED = "queued"  # waits for a train actor
    TRAINING = "training"
    TRAINED = "trained"  # its checkpoint waits for an eval actor
    EVALUATING = "evaluating"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"  # ended early on purpose, with a reason; its checkpoint stays
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (
            TrialState.COMPLETED,
            TrialState.FAILED,
            TrialState.STOPPED,
            TrialState.CANCELLED,
        )

    @property
    def is_held(self) -> bool:
        """A worker holds a lease on it."""
        return self in (TrialState.TRAINING, TrialState.EVALUATING)


class Stage(StrEnum):
    """Why a sweep has a trial: to find settings, or to confirm the found ones with fresh seeds."""

    TUNE = "tune"
    CONFIRM = "confirm"


class Order(StrEnum):
    """What a user or a stopping policy wants of one trial; none: what its sweeps want."""

    PAUSE = "pause"
    STOP = "stop"
    CANCEL = "cancel"


class WorkKind(StrEnum):
    """The two kinds of work, done by separate pools of actors."""

    TRAIN = "train"
    EVAL = "eval"


@dataclass(frozen=True, slots=True)
class Progress:
    """What a running trial says of itself; the heartbeat carries it to the store."""

    step: int
    steps: int
    tokens: int
    tokens_per_second: float
    loss: float
    max_vio: float


class Command(StrEnum):
    """What the store answers to a heartbeat."""

    CONTINUE = "continue"
    STOP = "stop"  # write a checkpoint and give the trial back
    END = "end"  # write a checkpoint and end the trial as STOPPED


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial as the store knows it. Times are UTC of the database's clock."""

    digest: str
    label: str  # the balancing rule in short
    spec: dict[str, Any]
    state: TrialState
    attempt: int  # number of claims so far; fences writes
    failures: int  # attempts that ended without a verdict: worker lost, lease expired
    progress: Progress | None
    result: dict[str, float]  # final figures under their fixed names; train and eval merged
    error: str | None  # traceback of a failed trial
    worker: str | None
    run_id: str | None  # MLflow
    checkpoint_uri: str | None
    lease_until: datetime | None
    heartbeat_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    preemptions: int = 0  # attempts that their host ended, not they themselves
    ordered: Order | None = None
    stop_reason: str | None = None  # of a trial that was ordered to stop
    extends: str | None = None  # digest of the trial that it goes on from with more steps
    stage: Stage | None = None  # in the sweep that was asked for; None where none was


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Held-out loss of a trial while it trains."""

    step: int
    tokens: int  # trained so far
    seconds: float  # of training so far
    val_loss: float  # nats per token
    max_vio: float  # of the steps since the last point, mean over layers


@dataclass(frozen=True, slots=True)
class PresenceRecord:
    """Who was there, and when last: a coordinator, a worker. Times as in TrialRecord."""

    name: str
    role: str
    started_at: datetime
    seen_at: datetime
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SweepRecord:
    sweep_id: str
    name: str
    spec: dict[str, Any]
    state: SweepState
    parent_run_id: str | None  # MLflow
    created_at: datetime
    finished_at: datetime | None
    is_expanded: bool = True  # False: submitted, its trials not yet listed
    priority: int = 0  # higher starts first
    max_preemptions: int = 20
    note: str | None = None  # why it is paused, where no user paused it


class AttemptState(StrEnum):
    RUNNING = "running"  # the attempt that holds the trial's lease
    DONE = "done"
    FAILED = "failed"  # the trial's own code raised
    RELEASED = "released"  # given back with a checkpoint
    PREEMPTED = "preempted"  # its host was taken away; with a checkpoint where there was time
    LOST = "lost"  # ended without a verdict: worker died, lease expired


class Charge(StrEnum):
    """Which budget of its trial pays for an attempt that ended without a verdict."""

    RETRY = "retry"
    PREEMPTION = "preemption"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One claim of a trial, from its start to how it ended. Times as in TrialRecord."""

    digest: str
    number: int  # from 1, over both kinds
    kind: WorkKind
    worker: str
    state: AttemptState
    started_at: datetime
    heartbeat_at: datetime
    lease_until: datetime
    ended_at: datetime | None
    exit_reason: str | None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a trial, and what the work needs to know.

    It holds until the lease runs out and somebody notices; the attempt number fences every write.
    """

    digest: str
    kind: WorkKind
    attempt: int
    worker: str
    label: str
    spec: dict[str, Any]
    checkpoint_uri: str | None
    sweep_id: str | None
    parent_run_id: str | None


@dataclass(frozen=True, slots=True)
class TrialStatus:
    """What the coordinator must know of an unfinished trial and its newest attempt."""

    digest: str
    state: TrialState
    attempt: int
    failures: int
    may_run: bool  # a sweep wants it worked on now, and no order holds it back
    max_retries: int  # as that sweep wants it
    attempt_state: AttemptState | None  # None before the first attempt
    worker: str | None
    lease_until: datetime | None
    exit_reason: str | None
    preemptions: int = 0
    max_preemptions: int = 20
    sweep_id: str = ""  # the sweep that puts it where it stands


@dataclass(frozen=True, slots=True)
class SweepStatus:
    """What the coordinator must know of a sweep."""

    sweep_id: str
    state: SweepState
    is_expanded: bool
    unfinished: int  # trials that are not final
    queued: int = 0  # of these, those that wait to be trained
    trained: int = 0  # and those that wait to be evaluated
    fast_failures: int = 0  # attempts that failed right after their start, the newest in a row


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where sweeps stand, read in one transaction."""

    taken_at: datetime  # by the database's clock
    sweeps: tuple[SweepStatus, ...]  # oldest first
    trials: tuple[TrialStatus, ...]  # unfinished ones, in the order in which they start
