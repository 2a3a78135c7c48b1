"""Runs a sweep to its end with the store, MLflow, Ray and the coordinator."""

import sys
from collections.abc import Sequence
from typing import Any

import typer

from evenload.pipeline.errors import OtherVersion, SpecError
from evenload.pipeline.figures.wording import counted
from evenload.pipeline.records.sinks import default_sinks
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import AttemptState, SweepState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.alarming import alarming
from evenload.pipeline.sweep.axes import leaves_of
from evenload.pipeline.sweep.coordinator import Coordinator
from evenload.pipeline.sweep.next_trials import next_trials
from evenload.pipeline.sweep.projection import Projection, projecting
from evenload.workers.actors.attempt_log import log_path
from evenload.workers.actors.device_memory import check_memory, slots_in_memory
from evenload.workers.cli.progress import SweepProgress
from evenload.workers.cli.session import initial_trials, log, open_store, short_of_disk
from evenload.workers.training.identity import basis, changes, identify

MOST_CHANGES = 5  # that are named


def stored_sweep(
    store: SweepStore,
    settings: Settings,
    spec: SweepSpec,
    trials: list[tuple[str, TrialSpec]],
    new_version: bool,
) -> str:
    """Stores the sweep if it is new, and returns its id.

    Args:     new_version: whether it may get other trials than it has; otherwise a user at a
                  terminal is asked
    Raises:   SpecError: it may not; the message says what has changed
    """
    now = basis([trial for _, trial in trials], settings)
    try:
        return store.add_sweep(spec, trials, now)
    except OtherVersion as other:
        sweep_id = spec.sweep_id()
        was = [trial.spec for trial in store.trials(sweep_id, limit=len(trials))]
        found = changes(other.basis, now, settings) or _other_keys(was, trials)
        old, new = counted(other.trials, "trial"), counted(len(trials), "new trial")
        log.print(f"{sweep_id} has {old} on other data or code:", soft_wrap=True)
        log.print(*(f"  {line}" for line in found[:MOST_CHANGES]), sep="\n", soft_wrap=True)
        if len(found) > MOST_CHANGES:
            log.print(f"  and {len(found) - MOST_CHANGES} others")
        ask = f"keep {old} under an id of their own and train {new}?"
        if not new_version and not (sys.stdin.isatty() and typer.confirm(ask)):
            raise SpecError(
                f"{sweep_id}: {found[0]}; put it back to go on with its {old}, or add "
                f"--new-version, which keeps what it has as {sweep_id}.v<n> and lists {new}"
            ) from None
        note = (
            f"former version of {sweep_id}; since then changed: {'; '.join(found[:MOST_CHANGES])}"
        )
        return store.add_sweep(spec, trials, now, note)


def _other_keys(was: list[dict[str, Any]], trials: list[tuple[str, TrialSpec]]) -> list[str]:
    """The keys in which the first of these specs differ that do."""
    for spec, (_, trial) in zip(was, trials, strict=False):
        old, new = (dict(leaves_of(each)) for each in (spec, trial.model_dump(mode="json")))
        if keys := [key for key in old | new if old.get(key) != new.get(key)]:
            return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys]
    return ["the number of trials"]


def check_goes_on(store: SweepStore, settings: Settings, sweep_id: str) -> None:
    """Raises: typer.Exit(1): the sweep is paused or cancelled; a message says why"""
    sweep = store.sweep(sweep_id)
    if sweep.state is SweepState.CANCELLED:
        log.print(f"{sweep_id} was cancelled; what it has stays")
    elif sweep.state is SweepState.PAUSED:
        reason = (sweep.note or "by its user").removeprefix("paused: ")
        log.print(f"{sweep_id} is paused: {reason}", soft_wrap=True, markup=False)
        if failure := _last_failure(store, settings, sweep_id):
            log.print(failure, soft_wrap=True, markup=False)
        log.print(
            f"`evenload sweep resume {sweep_id}`, then the same command goes on", soft_wrap=True
        )
    else:
        return
    raise typer.Exit(1)


def _last_failure(store: SweepStore, settings: Settings, sweep_id: str) -> str:
    """The newest error of an attempt and where its log is; empty if none failed."""
    tried = [trial for trial in store.trials(sweep_id) if trial.failures or trial.error]
    attempts = [
        attempt
        for trial in sorted(tried, key=lambda trial: str(trial.heartbeat_at))[-1:]
        for attempt in store.attempts(trial.digest)
        if attempt.state in (AttemptState.FAILED, AttemptState.LOST)
    ]
    if not attempts:
        return ""
    last = attempts[-1]
    path = log_path(settings, last.digest, last.number, last.kind)
    return f"last error: {last.exit_reason}\nits log: {path}"


def run_sweep(
    spec: SweepSpec,
    settings: Settings,
    *,
    address: str | None = None,
    slots: int | None = None,
    new_version: bool = False,
) -> None:
    """Submits the sweep if it is new, and runs it until every trial is final.

    Args:     new_version: as for `stored_sweep`
    Raises:   SpecError: a trial cannot run here; nothing was started
              typer.Exit(1): the run was stopped, paused or cancelled before the end
    """
    # With Ray and scipy, which a single trial does not need.
    from evenload.pipeline.sweep.policies import SweepPolicies
    from evenload.workers.actors.ray_executor import RayExecutor

    with log.status("reading the corpus"):
        has_cuda = _has_cuda(address, settings)
        trials = initial_trials(spec, settings, has_cuda)
    if address is None:
        slots = _slots_here([trial for _, trial in trials], slots)
        if problem := short_of_disk(trials, settings):
            log.print(problem, soft_wrap=True, markup=False)
    store = open_store(settings, create=True)
    sweep_id = stored_sweep(store, settings, spec, trials, new_version)
    check_goes_on(store, settings, sweep_id)
    spec = SweepSpec.trusted(store.sweep(sweep_id).spec)  # with the seeds of extensions
    rows = store.trials(sweep_id)
    with projecting(store, settings) as projection, alarming(store, settings):
        if not all(row.state.is_final for row in rows) or next_trials(spec, rows, room=1).trials:
            with SweepProgress(log) as progress:
                executor = RayExecutor(settings, default_sinks, train_slots=slots, address=address)
                policies = SweepPolicies(
                    store, lambda _, trials: identify(trials, settings, has_cuda)
                )
                coordinator = Coordinator(
                    store, executor, observer=progress.show, policies=policies
                )
                is_over = coordinator.run(sweep_id)
            projection.is_hurried = not is_over
            if not is_over:
                log.print("stopped; the same command resumes from the checkpoints")
                raise typer.Exit(1)
            check_goes_on(store, settings, sweep_id)
        store.finish_sweep(sweep_id)
    say_what_is_missing(projection)


def say_what_is_missing(projection: Projection) -> None:
    """Says what MLflow lacks at the end of a command. Store and shards are complete."""
    if projection.problem is not None:
        remedy = "the next `evenload sweep run` or `evenload serve` in this home delivers the rest"
        log.print(f"{projection.problem}; {remedy}", soft_wrap=True)


def _has_cuda(address: str | None, settings: Settings) -> bool | None:
    """Whether the workers have GPUs, which this host may lack; None: they run here."""
    if address is None:
        return None
    from evenload.workers.actors.ray_cluster import has_gpus

    return settings.cluster_gpus is not None or has_gpus(address)


def _slots_here(trials: Sequence[TrialSpec], slots: int | None) -> int | None:
    """The given number of slots, or by default the number of trials that fit into memory."""
    for trial in trials:
        check_memory(trial)
    room = slots_in_memory(trials)
    if slots is None and room is not None:
        log.print(f"memory has room for {room} trials at once; `--slots` sets another number")
        return room
    return slots
