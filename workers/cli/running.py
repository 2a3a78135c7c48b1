"""Runs a sweep to its end: the store, MLflow, Ray and the coordinator put together."""

from __future__ import annotations

import typer

from pipeline.settings import Settings
from pipeline.spec import SweepSpec
from pipeline.sweep.coordinator import Coordinator
from pipeline.tracking import mlflow_sink
from pipeline.tracking.sinks import default_sinks
from workers.actors.ray_executor import RayExecutor
from workers.cli.progress import SweepProgress
from workers.cli.session import identified, log, open_store


def run_sweep(
    spec: SweepSpec, settings: Settings, *, address: str | None = None, slots: int | None = None
) -> None:
    """Submits the sweep, if it is new, and coordinates it until every trial is final.

    Raises:   SpecError: a trial that cannot run here; nothing is started then
    """
    store = open_store(settings)
    with log.status("reading the corpus"):
        trials = identified(spec, settings)
    sweep_id = store.add_sweep(spec, trials)
    with log.status("preparing MLflow"):
        mlflow_sink.prepare(settings)
        mlflow_sink.ensure_parent(settings, store.sweep(sweep_id))
    tokens = sum(trial.train.steps * trial.train.tokens_per_step for _, trial in trials)
    if all(trial.state.is_final for trial in store.trials(sweep_id)):
        store.finish_sweep(sweep_id)
        return
    with SweepProgress(log, tokens) as progress:
        executor = RayExecutor(settings, default_sinks, train_slots=slots, address=address)
        is_over = Coordinator(store, executor, observer=progress.show).run(sweep_id)
    if not is_over:
        log.print("stopped; the same command goes on from the checkpoints")
        raise typer.Exit(1)
