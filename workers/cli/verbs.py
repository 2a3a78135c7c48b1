"""The verbs of `evenload sweep`: what a user may do to a sweep that is there, or to one trial."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenload.pipeline.sweep.extension import extension
from evenload.workers.cli.session import load_settings, log, open_store, out, print_json

SweepId = Annotated[str, typer.Argument(help="id as `evenload sweep list` shows it")]
Trial = Annotated[
    str | None, typer.Option("--trial", help="digest of one trial; without it the whole sweep")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on standard output")]
Home = Annotated[Path | None, typer.Option(help="folder with store, shards and checkpoints")]


def pause(sweep_id: SweepId, trial: Trial = None, home: Home = None) -> None:
    """Start nothing new; running trials write a checkpoint and wait."""
    open_store(load_settings(home)).pause(sweep_id, trial)


def resume(sweep_id: SweepId, trial: Trial = None, home: Home = None) -> None:
    """Go on after a pause; a single trial also after stop or cancel."""
    open_store(load_settings(home)).resume(sweep_id, trial)


def stop(sweep_id: SweepId, trial: Trial = None, home: Home = None) -> None:
    """Train no further: running trials write a checkpoint and end; trained ones are evaluated."""
    open_store(load_settings(home)).stop(sweep_id, trial)


def cancel(sweep_id: SweepId, trial: Trial = None, home: Home = None) -> None:
    """End a sweep for good; finished trials keep their figures."""
    open_store(load_settings(home)).cancel(sweep_id, trial)


def retry(sweep_id: SweepId, trial: Trial = None, home: Home = None) -> None:
    """Queue the failed trials of a sweep again; the next `evenload sweep run` trains them."""
    count = open_store(load_settings(home)).retry_failed(sweep_id, trial)
    log.print(f"{count} trials queued again")


def priority(
    sweep_id: SweepId,
    value: Annotated[int, typer.Argument(help="higher starts first; 0 by default")],
    home: Home = None,
) -> None:
    """Let a sweep start its trials before those of sweeps of a lower priority, or after."""
    open_store(load_settings(home)).set_priority(sweep_id, value)


def delete(
    sweep_id: SweepId,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    home: Home = None,
) -> None:
    """Remove a sweep with its files and runs; trials of other sweeps stay."""
    from evenload.pipeline.sweep.removal import remove_sweep

    settings = load_settings(home)
    store = open_store(settings)
    count = len(store.deletable(sweep_id))
    if not yes:
        typer.confirm(f"delete {sweep_id} and {count} trials, checkpoints and all?", abort=True)
    remove_sweep(store, settings, sweep_id)
    log.print(f"{sweep_id} and {count} trials are deleted")


def extend(
    sweep_id: SweepId,
    steps: Annotated[int, typer.Option(min=1, help="optimizer steps in all")],
    trial: Trial = None,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Leave a sweep for `evenload serve` that takes finished trials to more steps.

    Each goes on from its trial's checkpoint; the learning rate follows the schedule of the new
    length from there. `evenload sweep run` with the printed id runs it here.
    """
    store = open_store(load_settings(home))
    spec = extension(store.sweep(sweep_id).name, store.trials(sweep_id), steps, trial)
    store.submit(spec)
    if as_json:
        print_json({"sweep_id": spec.sweep_id(), "trials": len(spec.axes["extends"])})
    else:
        out.print(spec.sweep_id())
