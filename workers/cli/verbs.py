"""The commands of `evenload sweep` that change a stored sweep or one of its trials."""

from pathlib import Path
from typing import Annotated

import typer

from evenload.pipeline.errors import SpecError
from evenload.pipeline.figures.wording import counted
from evenload.pipeline.sweep.extension import extension
from evenload.workers.cli.session import AsJson, load_settings, log, open_store, out, print_json

SweepId = Annotated[str, typer.Argument(help="id from `evenload sweep list`")]
Trial = Annotated[
    str | None, typer.Option("--trial", help="digest of one trial; default: the whole sweep")
]
Home = Annotated[Path | None, typer.Option(help="folder with store, shards and checkpoints")]


def pause(sweep_id: SweepId, trial: Trial = None, home: Home = None) -> None:
    """Start no new trials; running ones write a checkpoint and wait."""
    _tell(open_store(load_settings(home)).pause(sweep_id, trial), sweep_id, trial, "paused")


def resume(sweep_id: SweepId, trial: Trial = None, home: Home = None) -> None:
    """Continue after a pause; a single trial also after stop or cancel."""
    _tell(open_store(load_settings(home)).resume(sweep_id, trial), sweep_id, trial, "resumed")


def stop(sweep_id: SweepId, trial: Trial = None, home: Home = None) -> None:
    """End training: running trials write a checkpoint and end; trained ones are evaluated."""
    _tell(open_store(load_settings(home)).stop(sweep_id, trial), sweep_id, trial, "stopped")


def cancel(sweep_id: SweepId, trial: Trial = None, home: Home = None) -> None:
    """End a sweep for good; finished trials keep their figures."""
    _tell(open_store(load_settings(home)).cancel(sweep_id, trial), sweep_id, trial, "cancelled")


def retry(sweep_id: SweepId, trial: Trial = None, home: Home = None) -> None:
    """Queue the failed trials of a sweep again; the next `evenload sweep run` trains them."""
    count = open_store(load_settings(home)).retry_failed(sweep_id, trial)
    _tell(count, sweep_id, trial, "queued again" if count else "no trial has failed")


def priority(
    sweep_id: SweepId,
    value: Annotated[int, typer.Argument(help="sweeps with a higher value start first; default 0")],
    home: Home = None,
) -> None:
    """Set the priority of a sweep: its trials start before your trials of a lower one."""
    count = open_store(load_settings(home)).set_priority(sweep_id, value)
    _tell(count, sweep_id, None, f"priority {value}")


def _tell(touched: int, sweep_id: str, trial: str | None, done: str) -> None:
    """Says what a verb did. A verb that the state does not allow has raised SpecError instead."""
    name = f"trial {trial} of {sweep_id}" if trial else sweep_id
    log.print(f"{name}: {done}; {counted(touched, 'trial') if touched else 'no trial'} touched")


def delete(
    sweep_id: SweepId,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    home: Home = None,
) -> None:
    """Remove a sweep with its files and runs, but keep trials that other sweeps share."""
    from evenload.pipeline.sweep.removal import remove_sweep

    settings = load_settings(home)
    store = open_store(settings)
    count = len(store.deletable(sweep_id))
    if not yes:
        typer.confirm(f"delete {sweep_id} with {count} trials and their checkpoints?", abort=True)
    remove_sweep(store, settings, sweep_id)
    log.print(f"{sweep_id} and {count} trials are deleted")


def extend(
    sweep_id: SweepId,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="number of further seeds for every setting")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="with --seeds: confirm only so many of the best settings"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="total number of optimizer steps")
    ] = None,
    trial: Trial = None,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Give a finished sweep more seeds, or store a sweep that trains its trials for more steps.

    `evenload serve` trains them, or `evenload sweep run` with the printed id. Seeds are added to
    the same sweep, so that its answer gets more certain; with --top only for the best settings,
    which takes fewer trials and gives a claim among them. With --steps each trial of the new sweep
    resumes from the checkpoint of an old one; from there its learning rate follows the schedule of
    the new length.
    """
    if (seeds is None) == (steps is None):
        raise SpecError("extend: give either --seeds or --steps")
    if top is not None and seeds is None:
        raise SpecError("--top: it needs --seeds, the number of fresh seeds of each setting")
    store = open_store(load_settings(home))
    if seeds is not None:
        if trial is not None:
            raise SpecError("--trial: seeds are added to every setting; leave it out")
        store.add_seeds(sweep_id, seeds, top)
        found = {"sweep_id": sweep_id, "seeds": seeds}
    else:
        assert steps is not None
        spec = extension(store.sweep(sweep_id).name, store.trials(sweep_id), steps, trial)
        found = {"sweep_id": store.submit(spec), "trials": len(spec.axes["extends"])}
    if as_json:
        print_json(found)
    else:
        out.print(found["sweep_id"])


VERBS = (pause, resume, stop, cancel, retry, priority, extend, delete)
