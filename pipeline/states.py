"""The states of sweeps, trials and attempts, and the frozen records that the store returns."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple


class SweepState(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    STOPPING = "stopping"  # no more training; trained trials are still evaluated
    CANCELLED = "cancelled"
    FINISHED = "finished"

    @property
    def is_going(self) -> bool:
        """Whether trials of the sweep may still be trained or evaluated."""
        return self in (SweepState.ACTIVE, SweepState.STOPPING)


OVER = (SweepState.FINISHED, SweepState.CANCELLED)


class TrialState(StrEnum):
    QUEUED = "queued"  # waits for a train actor
    TRAINING = "training"
    TRAINED = "trained"  # waits for an eval actor
    EVALUATING = "evaluating"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"  # ended early on purpose; keeps its checkpoint and a reason
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self.value in ("completed", "failed", "stopped", "cancelled")

    @property
    def is_held(self) -> bool:
        """Whether a worker holds a lease on the trial."""
        return self in (TrialState.TRAINING, TrialState.EVALUATING)


class Stage(StrEnum):
    """The purpose of a trial: find good settings, or confirm the best ones with fresh seeds."""

    TUNE = "tune"
    CONFIRM = "confirm"


class Order(StrEnum):
    """An order for one trial, from a user or a stopping policy; it overrides the trial's sweeps."""

    PAUSE = "pause"
    STOP = "stop"
    CANCEL = "cancel"


class WorkKind(StrEnum):
    """The two kinds of work. Each has its own pool of actors."""

    TRAIN = "train"
    EVAL = "eval"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running trial is. Heartbeats bring it to the store."""

    step: int
    steps: int
    tokens: int
    tokens_per_second: float
    loss: float
    max_vio: float


class Command(StrEnum):
    """The store's answer to a heartbeat."""

    CONTINUE = "continue"
    STOP = "stop"  # write a checkpoint and release the trial
    END = "end"  # write a checkpoint and end the trial as STOPPED


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial as stored. Times are in UTC, by the database's clock."""

    digest: str
    label: str  # short name of the balancing rule and its parameters
    spec: dict[str, Any]
    state: TrialState
    attempt: int  # number of claims so far; writes of older attempts are refused
    failures: int  # attempts that ended without a verdict: the worker died or the lease expired
    progress: Progress | None
    result: dict[str, float]  # final figures of training and evaluation, by metric name
    error: str | None  # traceback of a failed trial
    worker: str | None
    run_id: str | None  # in MLflow
    checkpoint_uri: str | None
    lease_until: datetime | None
    heartbeat_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    preemptions: int = 0  # attempts that ended because their host was taken away
    ordered: Order | None = None
    stop_reason: str | None = None  # why the trial was ordered to stop
    extends: str | None = None  # digest of the trial whose training it continues
    stage: Stage | None = None  # None if the trial was read without naming a sweep

    @property
    def planned_tokens(self) -> int:
        """Tokens of the whole training."""
        train = self.spec["train"]
        return int(train["steps"] * train["batch_sequences"] * train["seq_len"])

    def figure(self, name: str) -> float:
        """A figure of its result; NaN before it is there, and where an older version had none."""
        return float(self.result.get(name, math.nan))


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The held-out loss of a trial at one step of its training."""

    step: int
    tokens: int  # trained so far
    seconds: float  # training time so far
    val_loss: float  # nats per token
    max_vio: float  # mean over layers and over the steps since the last point


@dataclass(frozen=True, slots=True)
class PresenceRecord:
    """A coordinator or worker that announced itself, and when it did last."""

    name: str
    role: str
    started_at: datetime
    seen_at: datetime
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeedRecord:
    """What somebody asked of a sweep, or of one of its trials."""

    at: datetime
    who: str
    verb: str
    sweep_id: str
    digest: str | None


@dataclass(frozen=True, slots=True)
class SweepRecord:
    sweep_id: str
    name: str
    spec: dict[str, Any]
    state: SweepState
    parent_run_id: str | None  # in MLflow
    created_at: datetime
    finished_at: datetime | None
    is_expanded: bool = True  # False: submitted, but its trials are not listed yet
    priority: int = 0  # sweeps of higher priority start first
    max_preemptions: int = 20
    note: str | None = None  # why the program paused the sweep; None if a user did
    submitter: str = ""  # who stored it; empty if that is not known


@dataclass(frozen=True, slots=True)
class SweepOverview:
    """A sweep with what is counted of its trials."""

    sweep: SweepRecord
    counts: Mapping[TrialState, int]  # states without trials are left out
    done: float  # mean share of their steps; failed and stopped trials count as done
    started_at: datetime | None  # of the first trial
    ended_at: datetime | None  # of the last trial so far

    @property
    def trials(self) -> int:
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        return self.counts.get(TrialState.FAILED, 0)

    @property
    def running(self) -> int:
        return sum(count for state, count in self.counts.items() if state.is_held)


class AttemptState(StrEnum):
    RUNNING = "running"  # the attempt that holds the trial's lease
    DONE = "done"
    FAILED = "failed"  # the trial's own code raised
    RELEASED = "released"  # the worker wrote a checkpoint and released the trial
    PREEMPTED = "preempted"  # the host was taken away; there may be a newer checkpoint
    LOST = "lost"  # ended without a verdict: the worker died or the lease expired


class Charge(StrEnum):
    """The budget of a trial that an attempt without a verdict is charged to."""

    RETRY = "retry"
    PREEMPTION = "preemption"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt at a trial. Times are in UTC, by the database's clock."""

    digest: str
    number: int  # from 1; training and evaluation attempts are counted together
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

    It is valid until a coordinator has seen no renewal of its lease for as long as that lasts. The
    store refuses writes with an older attempt number.
    """

    digest: str
    kind: WorkKind
    attempt: int
    worker: str
    label: str
    spec: dict[str, Any]
    checkpoint_uri: str | None
    sweep_id: str | None


class Lease(NamedTuple):
    """The newest renewal of a running attempt's lease, and how long it lasts from then on."""

    digest: str
    attempt: int
    renewed_at: datetime  # by the database's clock, which may jump: only tells renewals apart
    seconds: float


@dataclass(frozen=True, slots=True)
class TrialStatus:
    """What the coordinator must know about an unfinished trial and its newest attempt."""

    digest: str
    state: TrialState
    attempt: int
    failures: int
    may_run: bool  # a sweep wants it worked on now, and no order holds it back
    max_retries: int  # of the sweep `sweep_id`, as is max_preemptions
    attempt_state: AttemptState | None  # None before the first attempt
    worker: str | None
    lease_until: datetime | None
    exit_reason: str | None
    preemptions: int = 0
    max_preemptions: int = 20
    sweep_id: str = ""  # the first sweep, in starting order, that lists the trial
    submitter: str = ""  # of that sweep
    heartbeat_at: datetime | None = None
    held_seconds: float = 0.0  # by workers so far; counted only if there is a limit
    limit_hours: float | None = None  # of the sweep `sweep_id`

    @property
    def lease(self) -> Lease | None:
        """The lease of the worker that holds the trial; None if none holds it."""
        if not self.state.is_held or self.lease_until is None or self.heartbeat_at is None:
            return None
        seconds = (self.lease_until - self.heartbeat_at).total_seconds()
        return Lease(self.digest, self.attempt, self.heartbeat_at, seconds)


@dataclass(frozen=True, slots=True)
class SweepStatus:
    """What the coordinator must know about a sweep."""

    sweep_id: str
    state: SweepState
    is_expanded: bool
    unfinished: int  # trials that are not final
    queued: int = 0  # unfinished trials that wait to be trained
    trained: int = 0  # unfinished trials that wait to be evaluated
    fast_failures: int = 0  # how many of the newest attempts failed right after their start
    limits: Mapping[str, Any] = field(default_factory=dict)  # as a `SweepLimits`
    spent_seconds: float = 0.0  # since it began to work; counted only if there is a limit


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The status of sweeps and their trials, read in one transaction."""

    taken_at: datetime  # by the database's clock
    sweeps: tuple[SweepStatus, ...]  # oldest first
    trials: tuple[TrialStatus, ...]  # unfinished ones, in the order in which they start
    served: tuple[str, ...] = ()  # submitters of the attempts that ended last, newest first
