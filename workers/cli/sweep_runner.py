"""Runs a sweep to its end with the store, MLflow, Ray and the coordinator."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from evenload.pipeline.records import mlflow_sink
from evenload.pipeline.records.sinks import default_sinks
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.coordinator import Coordinator
from evenload.pipeline.sweep.next_trials import next_trials
from evenload.pipeline.sweep.policies import SweepPolicies
from evenload.workers.actors.device_memory import check_memory, slots_in_memory
from evenload.workers.actors.ray_executor import RayExecutor
from evenload.workers.cli.progress import SweepProgress
from evenload.workers.cli.session import initial_trials, log, open_store
from evenload.workers.training.identity import identify


def register(
    store: SweepStore, settings: Settings, spec: SweepSpec, trials: Sequence[tuple[str, TrialSpec]]
) -> str:
    """Stores the sweep, creates its MLflow run and returns its id. Idempotent.

    Trials are stored last, because from then on any coordinator may start them.
    """
    sweep_id = store.submit(spec)
    with log.status("preparing MLflow"):
        create_mlflow_run(store, settings, sweep_id)
    return store.add_sweep(spec, trials)


def create_mlflow_run(store: SweepStore, settings: Settings, sweep_id: str) -> None:
    """Creates the run of a sweep in MLflow, the parent of its trials' runs. Idempotent."""
    mlflow_sink.prepare(settings)
    run_id = mlflow_sink.ensure_parent(settings, store.sweep(sweep_id))
    store.set_parent_run(sweep_id, run_id)


def close_sweep(store: SweepStore, settings: Settings, sweep_id: str) -> None:
    """Closes a sweep with final trials in the store and in MLflow."""
    store.finish_sweep(sweep_id)
    mlflow_sink.settle(settings, store.sweep(sweep_id), store.trials(sweep_id))


def run_sweep(
    spec: SweepSpec, settings: Settings, *, address: str | None = None, slots: int | None = None
) -> None:
    """Submits the sweep if it is new, and runs it until every trial is final.

    Raises:   SpecError: a trial cannot run here; nothing was started
              typer.Exit(1): the run was stopped before the end
    """
    with log.status("reading the corpus"):
        trials = initial_trials(spec, settings)
    if address is None:
        slots = _slots_here([trial for _, trial in trials], slots)
    store = open_store(settings)
    sweep_id = register(store, settings, spec, trials)
    spec = SweepSpec.trusted(store.sweep(sweep_id).spec)  # with the seeds of extensions
    rows = store.trials(sweep_id)
    if not all(row.state.is_final for row in rows) or next_trials(spec, rows, room=1).trials:
        with SweepProgress(log) as progress:
            executor = RayExecutor(settings, default_sinks, train_slots=slots, address=address)
            policies = SweepPolicies(store, lambda _, trials: identify(trials, settings))
            coordinator = Coordinator(store, executor, observer=progress.show, policies=policies)
            is_over = coordinator.run(sweep_id)
        if not is_over:
            log.print("stopped; the same command resumes from the checkpoints")
            raise typer.Exit(1)
    close_sweep(store, settings, sweep_id)


def _slots_here(trials: Sequence[TrialSpec], slots: int | None) -> int | None:
    """The given number of slots, or by default the number of trials that fit into memory."""
    for trial in trials:
        check_memory(trial)
    room = slots_in_memory(trials)
    if slots is None and room is not None:
        log.print(f"memory has room for {room} trials at once; `--slots` sets another number")
        return room
    return slots
