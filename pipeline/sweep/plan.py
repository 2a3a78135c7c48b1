"""Decides from the status of sweeps and workers what to do next. A pure function."""

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from evenload.pipeline.figures.wording import duration
from evenload.pipeline.states import (
    AttemptState,
    Charge,
    Lease,
    Snapshot,
    SweepState,
    SweepStatus,
    TrialState,
    TrialStatus,
    WorkKind,
)
from evenload.pipeline.sweep.worker_id import name_of

KIND_OF_WAITING = {TrialState.QUEUED: WorkKind.TRAIN, TrialState.TRAINED: WorkKind.EVAL}
# So many fast failures one after another mean that the sweep is at fault and not a single trial.
FAST_FAILURES = 5
# For a checkpoint or an evaluation, after the limit of a trial.
OVERTIME_SECONDS = 300.0


class Death(NamedTuple):
    """How a worker ended."""

    reason: str
    is_preemption: bool = False  # its host was taken away


@dataclass(frozen=True, slots=True)
class Crew:
    """The state of the workers. They are identified by name, see `worker_id`."""

    free: Mapping[WorkKind, int] = field(default_factory=dict)  # number of possible launches
    busy: Mapping[str, str] = field(default_factory=dict)  # worker -> digest it was launched for
    gone: Mapping[str, Death] = field(default_factory=dict)  # workers that just died
    orphans: frozenset[str] = frozenset()  # ids of dead workers of a coordinator that has ended
    overdue: tuple[Lease, ...] = ()  # leases that were not renewed in time


@dataclass(frozen=True, slots=True)
class Lose:
    """Take the trials of a dead worker from it, at this charge."""

    worker_id: str
    reason: str
    charge: Charge


@dataclass(frozen=True, slots=True)
class Expire:
    """Take trials from workers that have not renewed these leases."""

    overdue: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class StopWorker:
    """End a worker that has lost its trial and does not notice, so it must be hanging."""

    worker: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Give a trial up."""

    digest: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Launch:
    """Let a worker claim this trial."""

    kind: WorkKind
    digest: str
    sweep_id: str = field(default="", compare=False)  # one that wants it


@dataclass(frozen=True, slots=True)
class FinishSweep:
    """Finish a sweep whose trials are all final."""

    sweep_id: str


@dataclass(frozen=True, slots=True)
class PauseSweep:
    """Pause a sweep whose trials fail as soon as they start."""

    sweep_id: str
    note: str


@dataclass(frozen=True, slots=True)
class StopTrial:
    """Stop a trial that has had its time."""

    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class StopSweep:
    """Finish a sweep that has had its time with what it has."""

    sweep_id: str
    note: str


Action = (
    Lose | Expire | StopWorker | Fail | PauseSweep | StopTrial | StopSweep | Launch | FinishSweep
)


def plan(snapshot: Snapshot, crew: Crew) -> list[Action]:
    """The actions that are due, in the order in which to apply them.

    An action may be applied late, twice or not at all: the store checks the state before it writes,
    and a missed action is planned again.
    """
    return [
        *_lost_workers(snapshot, crew),
        *_expiry(crew),
        *_stranded_workers(snapshot, crew),
        *_hopeless_trials(snapshot),
        *_broken_sweeps(snapshot),
        *_sweeps_over_limit(snapshot),
        *_trials_over_limit(snapshot, crew),
        *_launches(snapshot, crew),
        *_finished_sweeps(snapshot),
    ]


def _lost_workers(snapshot: Snapshot, crew: Crew) -> Iterator[Lose]:
    for worker_id in dict.fromkeys(_holders(snapshot)):
        name = name_of(worker_id)
        if name in crew.gone:
            death = crew.gone[name]
            charge = Charge.PREEMPTION if death.is_preemption else Charge.RETRY
            yield Lose(worker_id, death.reason, charge)
        elif worker_id in crew.orphans:
            # The trial is not to blame for the end of its coordinator.
            yield Lose(worker_id, "its coordinator ended", Charge.NOTHING)


def _expiry(crew: Crew) -> Iterator[Expire]:
    if crew.overdue:
        yield Expire(crew.overdue)


def _stranded_workers(snapshot: Snapshot, crew: Crew) -> Iterator[StopWorker]:
    trials = {trial.digest: trial for trial in snapshot.trials}
    working = {name_of(worker_id) for worker_id in _holders(snapshot)}
    for worker, digest in crew.busy.items():
        trial = trials.get(digest)
        # A worker that was launched for one trial may hold others of a stack and train on those.
        if trial is None or trial.worker is None or worker in working:
            continue
        holds_it = name_of(trial.worker) == worker
        lost_it = holds_it and trial.attempt_state is AttemptState.LOST
        if lost_it or (trial.state.is_held and not holds_it):
            yield StopWorker(worker)


def _hopeless_trials(snapshot: Snapshot) -> Iterator[Fail]:
    for trial in snapshot.trials:
        if trial.state in KIND_OF_WAITING and _is_hopeless(trial):
            lost = f"{trial.failures} lost attempts"
            if trial.preemptions > trial.max_preemptions:
                lost = f"{trial.preemptions} preemptions"
            reason = f"given up after {lost}; the last one: {trial.exit_reason}"
            yield Fail(trial.digest, trial.attempt, reason)


def _is_working(sweep: SweepStatus) -> bool:
    """Whether a pause would spare it anything. Without open trials it would never end."""
    return sweep.state is SweepState.ACTIVE and sweep.unfinished > 0


def _broken_sweeps(snapshot: Snapshot) -> Iterator[PauseSweep]:
    for sweep in snapshot.sweeps:
        if _is_working(sweep) and _is_broken(sweep):
            yield PauseSweep(
                sweep.sweep_id,
                f"paused: its last {sweep.fast_failures} attempts failed right after their start; "
                "read their logs, then resume the sweep",
            )


def _sweeps_over_limit(snapshot: Snapshot) -> Iterator[PauseSweep | StopSweep]:
    for sweep in snapshot.sweeps:
        if not _is_working(sweep) or not _is_over_limit(sweep):
            continue
        spent = (
            f"limits.hours={sweep.limits['hours']:g}: it works for {duration(sweep.spent_seconds)}"
        )
        if sweep.limits["then"] == "pause":
            yield PauseSweep(
                sweep.sweep_id, f"paused: {spent}; a resume lets it work as long again"
            )
        else:
            yield StopSweep(sweep.sweep_id, f"{spent}; run it again with a higher limit to go on")


def _trials_over_limit(snapshot: Snapshot, crew: Crew) -> Iterator[StopTrial | StopWorker | Fail]:
    """Asks first; a worker that does not obey is ended. What is trained has time to be scored."""
    for trial in snapshot.trials:
        over = _seconds_over(trial)
        if over <= 0:
            continue
        reason = f"limits.hours={trial.limit_hours:g}: held for {duration(trial.held_seconds)}"
        if trial.may_run and trial.state in (TrialState.QUEUED, TrialState.TRAINING):
            yield StopTrial(trial.digest, reason)
        elif over > OVERTIME_SECONDS and trial.state is TrialState.TRAINED:
            yield Fail(trial.digest, trial.attempt, f"{reason}, and not evaluated by then")
        elif over > OVERTIME_SECONDS and (name := name_of(trial.worker or "")) in crew.busy:
            yield StopWorker(name)


def _seconds_over(trial: TrialStatus) -> float:
    return trial.held_seconds - 3600 * (trial.limit_hours or math.inf)


def _is_over_limit(sweep: SweepStatus) -> bool:
    return sweep.spent_seconds > 3600 * (sweep.limits.get("hours") or math.inf)


def _launches(snapshot: Snapshot, crew: Crew) -> Iterator[Launch]:
    """Launches evaluations first, because each completes a trial."""
    launched = set(crew.busy.values())
    workers_of = _workers_of_submitters(snapshot, crew)
    held_back = {
        sweep.sweep_id for sweep in snapshot.sweeps if _is_broken(sweep) or _is_over_limit(sweep)
    }
    for kind in (WorkKind.EVAL, WorkKind.TRAIN):
        runnable = (
            trial
            for trial in snapshot.trials
            if KIND_OF_WAITING.get(trial.state) is kind
            and trial.may_run
            and not _is_hopeless(trial)
            and not (kind is WorkKind.TRAIN and _seconds_over(trial) > 0)
            and trial.digest not in launched
            and trial.sweep_id not in held_back
        )
        fair = _in_turns(runnable, workers_of, snapshot.served)
        for _, trial in zip(range(crew.free.get(kind, 0)), fair, strict=False):
            yield Launch(kind, trial.digest, trial.sweep_id)


def _in_turns(
    runnable: Iterable[TrialStatus], workers_of: Counter[str], served: Sequence[str]
) -> Iterator[TrialStatus]:
    """The trials such that all submitters get equally many workers, whatever their priorities.

    The next worker goes to the submitter with the fewest; among equals to the one whose last
    attempt ended the longest ago. The trials of one submitter keep their order.

    Args:     workers_of: the workers of each submitter; a trial that is taken adds one
              served: submitters of the attempts that ended last, newest first
    """
    queues: dict[str, deque[TrialStatus]] = {}
    for trial in runnable:
        queues.setdefault(trial.submitter, deque()).append(trial)
    rank = {who: -place for place, who in reversed(list(enumerate(served)))}
    while queues:
        who = min(queues, key=lambda who: (workers_of[who], rank.get(who, -len(served))))
        workers_of[who] += 1
        yield queues[who].popleft()
        if not queues[who]:
            del queues[who]


def _workers_of_submitters(snapshot: Snapshot, crew: Crew) -> Counter[str]:
    """How many workers each submitter has; one with a stack of trials counts once."""
    pairs = {
        (trial.submitter, name_of(trial.worker))
        for trial in snapshot.trials
        if trial.state.is_held and trial.worker is not None
    }
    submitters = {trial.digest: trial.submitter for trial in snapshot.trials}
    pairs |= {(submitters[d], worker) for worker, d in crew.busy.items() if d in submitters}
    return Counter(submitter for submitter, _ in pairs)


def _finished_sweeps(snapshot: Snapshot) -> Iterator[FinishSweep]:
    for sweep in snapshot.sweeps:
        listed = sweep.state is SweepState.ACTIVE and sweep.is_expanded
        if sweep.unfinished == 0 and (listed or sweep.state is SweepState.STOPPING):
            yield FinishSweep(sweep.sweep_id)


def _holders(snapshot: Snapshot) -> Iterator[str]:
    return (
        trial.worker
        for trial in snapshot.trials
        if trial.state.is_held and trial.worker is not None
    )


def _is_hopeless(trial: TrialStatus) -> bool:
    return trial.failures > trial.max_retries or trial.preemptions > trial.max_preemptions


def _is_broken(sweep: SweepStatus) -> bool:
    return sweep.fast_failures >= FAST_FAILURES
