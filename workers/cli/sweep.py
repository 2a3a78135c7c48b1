"""`evenload sweep ...`: the commands plan, submit, run, status, list and those in `verbs`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from pydantic import ValidationError
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.errors import SpecError, first_message
from evenload.pipeline.extras import WORKERS, require
from evenload.pipeline.redaction import without_secrets_of
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec, load_sweep
from evenload.pipeline.states import Stage, SweepRecord, TrialState
from evenload.pipeline.store.conditions import check_is_current
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.answer import answer, readable_spec
from evenload.pipeline.sweep.axes import axes_of
from evenload.pipeline.sweep.next_trials import most_to_come
from evenload.pipeline.sweep.search import shortfall
from evenload.pipeline.sweep.step_curves import advised_ranges
from evenload.pipeline.sweep.trial_plan import TrialPlan, disk_shortage, plan_trial
from evenload.workers.cli import verbs
from evenload.workers.cli.answer import answer_parts
from evenload.workers.cli.compare import compare
from evenload.workers.cli.session import (
    AsJson,
    NewVersion,
    checked_trials,
    load_settings,
    log,
    open_store,
    out,
    print_json,
    sweep_document,
)
from evenload.workers.cli.tables import sweep_table, trial_table
from evenload.workers.cli.text_plots import learning_plot, step_plots
from evenload.workers.cli.verbs import Home, SweepId

sweep_app = typer.Typer(help="Plan, run and manage sweeps.", no_args_is_help=True)

SweepFile = Annotated[Path, typer.Argument(help="YAML file of a sweep")]
MANY = 100  # more trials are too long for a screen and slow to draw
OF_INTEREST = (TrialState.TRAINING, TrialState.EVALUATING, TrialState.FAILED)
FileOrId = Annotated[
    str,
    typer.Argument(
        help="YAML file of a sweep, or the id of a stored one (not with --address http://...)"
    ),
]


class Planned(NamedTuple):
    """A trial that is not stored, for its name."""

    label: str
    spec: dict[str, Any]
    stage: Stage | None = None


@sweep_app.command()
def plan(sweep_file: SweepFile, as_json: AsJson = False, home: Home = None) -> None:
    """Dry run: the first trials with their tokens, FLOPs, memory and disk. Starts nothing."""
    from evenload.workers.actors.device_memory import misfit_here
    from evenload.workers.data.corpus import prepare

    settings = load_settings(home)
    spec = load_sweep(sweep_file)
    trials = checked_trials(spec, settings)
    named = [Planned(trial.balancer.label, trial.model_dump(mode="json")) for trial in trials]
    axes = axes_of(named, spec)
    plans = [
        plan_trial(trial)._replace(label=axes.beside_experts(row))
        for trial, row in zip(trials, named, strict=True)
    ]
    corpora = [prepare(data, settings.corpus_dir) for data in {trial.data for trial in trials}]
    origins = [corpus.origin for corpus in corpora if corpus.origin]
    said = shortfall(spec, trials), disk_shortage(plans, settings.root)
    notes = [note for note in said if note]
    refused = [problem for trial in trials if (problem := misfit_here(trial))]
    if as_json:
        document = {
            "sweep_id": spec.sweep_id(),
            "trials": [plan._asdict() for plan in plans],
            "data": [origin._asdict() for origin in origins],
            "most_to_come": {stage.value: count for stage, count in most_to_come(spec).items()},
            "notes": notes,
            "refused": refused,
        }
        print_json(document)
    else:
        for note in notes:
            log.print(note, soft_wrap=True)
        out.print(_plan_table(spec.sweep_id(), plans))
        if len(plans) > MANY:
            out.print(f"and {len(plans) - MANY:,} others; `--json` lists all")
        for gap in sorted({plan.not_known for plan in plans} - {""}):
            out.print(f"Left out of these figures, because not known: {gap}.")
        for origin in origins:
            out.print(f"Data: {origin}", soft_wrap=True)
        for stage, count in most_to_come(spec).items():
            if count:
                out.print(f"Later, at most: {count} more trials to {stage.value}.")
    if refused and as_json:  # the document says so
        raise typer.Exit(2)
    if refused:
        others = f", and {len(refused) - 1} others" if len(refused) > 1 else ""
        raise SpecError(f"this sweep would be refused here: {refused[0]}{others}")


@sweep_app.command()
def submit(sweep_file: SweepFile, as_json: AsJson = False, home: Home = None) -> None:
    """Store a sweep for `evenload serve`, which runs it. A second call changes nothing."""
    settings = load_settings(home)
    sweep_id = open_store(settings, create=True).submit(load_sweep(sweep_file))
    if as_json:
        print_json({"sweep_id": sweep_id})
    else:
        out.print(sweep_id)


@sweep_app.command()
def run(
    sweep: FileOrId,
    as_json: AsJson = False,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="Ray cluster; http://...: run as a Ray job there; default: this machine",
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(min=1, help="trials to train at once; default: one per core or GPU"),
    ] = None,
    new_version: NewVersion = False,
    home: Home = None,
) -> None:
    """Run a sweep to its end. After a crash the same command resumes it."""
    settings = load_settings(home)
    if address is not None and address.startswith(("http://", "https://")):
        raise typer.Exit(_run_as_job(address, sweep, as_json, slots, new_version))
    spec = _stored_or_load(sweep, settings)
    require(*WORKERS)
    from evenload.workers.cli.sweep_runner import run_sweep  # with torch, Ray and MLflow

    run_sweep(spec, settings, address=address, slots=slots, new_version=new_version)
    finish(settings, spec.sweep_id(), as_json)


def _run_as_job(
    address: str, sweep: str, as_json: bool, slots: int | None, new_version: bool
) -> int:
    """Returns the exit code of the Ray job.  Raises: SpecError: no file, or no access"""
    if not _is_file(sweep):
        raise SpecError(
            f"{sweep}: with --address {shown_address(address)} only the YAML file of a sweep can "
            "be sent; give the file, or the id without an http address"
        )
    sweep_id = load_sweep(Path(sweep)).sweep_id()
    from evenload.workers.actors.ray_job import run_as_job  # with Ray, as below

    try:
        return run_as_job(address, sweep_id, Path(sweep), as_json, slots, new_version)
    except (OSError, RuntimeError) as error:  # OSError includes errors of requests
        text = without_secrets_of(address, error).strip()
        reason = (text.splitlines() or [type(error).__name__])[0]
        raise SpecError(
            f"--address {shown_address(address)}: {reason.rstrip('.')}; give the address of a "
            "running Ray cluster's dashboard, and its token in RAY_AUTH_TOKEN"
        ) from None


def _is_file(sweep: str) -> bool:
    """True also for a missing file if its name ends like a YAML file."""
    return Path(sweep).suffix in (".yaml", ".yml") or Path(sweep).exists()


def _stored_or_load(sweep: str, settings: Settings) -> SweepSpec:
    """Raises: SpecError: it is neither a file nor the id of a sweep in the store"""
    if _is_file(sweep):
        return load_sweep(Path(sweep))
    check_is_current(sweep)
    try:
        return SweepSpec.model_validate(open_store(settings).sweep(sweep).spec)
    except ValidationError as error:
        raise SpecError(
            f"sweep {sweep} is stored in a form that this version cannot read "
            f"({first_message(error)}); run its YAML file instead of its id"
        ) from None


def finish(settings: Settings, sweep_id: str, as_json: bool) -> None:
    """Prints a sweep's figures.  Raises: Exit(1): a trial failed or was ended by a limit"""
    store = open_store(settings)
    trials, found = store.trials(sweep_id), answer(store, sweep_id)
    if as_json:
        print_json(sweep_document(sweep_id, trials, found))
    else:
        out.print(trial_table(trials, found.axes))
        if len(trials) > 1:
            out.print(*answer_parts(found), sep="\n")
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    cut = [trial for trial in trials if (trial.stop_reason or "").startswith("limits.")]
    for trial in (*failed, *cut):
        reason = trial.error if trial in failed else trial.stop_reason
        last_line = (reason or "").strip().splitlines()[-1:] or ["no reason given"]
        name = f"{found.axes.name(trial)} ({trial.digest})"
        log.print(Text(f"{trial.state}:", "red"), f"{name}: {last_line[0]}", soft_wrap=True)
    if cut and not failed:
        raise typer.Exit(1)
    if failed:
        log.print(f"Full tracebacks: evenload sweep status {sweep_id} --json, or the dashboard.")
        raise typer.Exit(1)


@sweep_app.command()
def status(
    sweep_id: SweepId,
    everything: Annotated[
        bool, typer.Option("--all", help=f"show all trials and the answer, even above {MANY}")
    ] = False,
    plots: Annotated[
        bool, typer.Option("--plot", help="also draw figures by step size, and learning curves")
    ] = False,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Show a sweep with one row per trial; of a large sweep only running and failed trials."""
    settings = load_settings(home)
    store = open_store(settings)
    sweep, counts = store.sweep(sweep_id), store.counts(sweep_id)
    if as_json:
        document = sweep_document(sweep_id, store.trials(sweep_id), answer(store, sweep_id))
        print_json({"state": sweep.state.value, "note": sweep.note, **document})
        return
    if plots:
        _print_plots(settings, store, sweep_id)
    out.print(sweep_table([(sweep, counts)]))
    if sweep.note:
        out.print(sweep.note, style="yellow")
    if everything or sum(counts.values()) <= MANY:
        from evenload.pipeline.records.lost_records import lost_records  # with pyarrow

        found = answer(store, sweep_id)
        trials = store.trials(sweep_id)
        out.print(trial_table(trials, found.axes))
        out.print(*answer_parts(found), sep="\n")
        for trial in trials if settings.mirror_url is None else ():
            if lost := lost_records(settings.trial_dir(trial.digest), trial):
                log.print(f"trial {trial.digest}: {lost}", soft_wrap=True)
        return
    some = store.trials(sweep_id, states=OF_INTEREST, limit=MANY)
    out.print(trial_table(some, axes_of(some, readable_spec(store, sweep_id))))
    out.print("`--all` shows every trial and the answer; `evenload report` writes it as a page.")


def _print_plots(settings: Settings, store: SweepStore, sweep_id: str) -> None:
    """Says so if there is nothing to draw."""
    trials, found = store.trials(sweep_id), answer(store, sweep_id)
    drawn = list(step_plots(found, advised_ranges(settings, found, trials)))
    if (learning := learning_plot(found, trials, store.curves(sweep_id))) is not None:
        drawn.append(learning)
    for plot in drawn:
        out.print(plot, no_wrap=True)
    if not drawn:
        out.print("Nothing to draw: no rule has two finished step sizes, no trial a curve.")


@sweep_app.command(name="list")
def list_sweeps(as_json: AsJson = False, home: Home = None) -> None:
    """List all sweeps, newest first."""
    store = open_store(load_settings(home))
    rows = [(sweep, store.counts(sweep.sweep_id)) for sweep in store.sweeps()]
    if not as_json:
        out.print(sweep_table(rows))
        return
    print_json([_listed(sweep, counts) for sweep, counts in rows])


def _listed(sweep: SweepRecord, counts: Mapping[TrialState, int]) -> dict[str, object]:
    return {
        "sweep_id": sweep.sweep_id,
        "state": sweep.state.value,
        "priority": sweep.priority,
        "note": sweep.note,
        "created_at": sweep.created_at,
        "trials": {state.value: count for state, count in counts.items()},
    }


for verb in (compare, *verbs.VERBS):
    sweep_app.command()(verb)


def _plan_table(sweep_id: str, plans: list[TrialPlan]) -> Table:
    table = Table(title=f"{sweep_id}: {len(plans)} trials, nothing started", show_footer=True)
    sums = {
        "tokens": f"{sum(plan.tokens for plan in plans) / 1e6:,.1f}M",
        "TFLOP": f"{sum(plan.train_flops for plan in plans) / 1e12:,.1f}",
        "disk": f"{sum(plan.disk_bytes for plan in plans) / 1e6:,.0f} MB",
        "rule": "all",
    }
    heads = ("rule", "experts", "seed", "parameters", "active", "tokens", "TFLOP", "memory", "disk")
    for title in heads:
        align: JustifyMethod = "left" if title == "rule" else "right"
        table.add_column(title, footer=sums.get(title, ""), justify=align)
    for plan in plans[:MANY]:
        table.add_row(
            plan.label,
            str(plan.num_experts),
            str(plan.seed),
            f"{plan.parameters / 1e6:,.2f}M",
            f"{plan.active_parameters / 1e6:,.2f}M",
            f"{plan.tokens / 1e6:,.2f}M",
            f"{plan.train_flops / 1e12:,.2f}",
            f"{plan.memory_bytes / 1e6:,.0f} MB",
            f"{plan.disk_bytes / 1e6:,.0f} MB",
        )
    return table
