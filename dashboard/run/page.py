"""One run: the load of every expert at every step, losses, resources and records."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import streamlit as st

from evenload.dashboard import page_parts, queries, shown_runs
from evenload.dashboard.controls import trial_buttons
from evenload.dashboard.loss_unit import choose_loss_unit, unit_of_runs
from evenload.dashboard.record_tables import figure, label_of, spec_of, trial_labels, why_failed
from evenload.dashboard.run import queries as run_queries
from evenload.dashboard.run.views import (
    balance,
    biases,
    cockpit,
    experts,
    load,
    record,
    system,
    training,
)
from evenload.dashboard.wording import RUN_STATES, TRIAL_STATES, ago, short
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.loads import Loads
from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.figures.wording import NONE, counted, listed
from evenload.pipeline.records.load_series import LoadSeries
from evenload.pipeline.records.recorded_runs import RecordedRun
from evenload.pipeline.states import TrialRecord, TrialState
from evenload.pipeline.sweep.setting import LOSS

Draw = Callable[[Any, LoadSeries], None]

# To add a view, add a file to views and an entry here. Views in VIEWS alone need no recorded steps.
# Recorded runs have STEP_VIEWS and their own record.
STEP_VIEWS: dict[str, Draw] = {
    "Cockpit": cockpit.draw,
    "Load": load.draw,
    "Balance": balance.draw,
    "Biases": biases.draw,
    "Training": training.draw,
}
VIEWS: dict[str, Draw] = STEP_VIEWS | {
    "Experts": experts.draw,
    "System": system.draw,
    "Record": record.draw,
}
SHORTER = {"max_vio_ratio": "Over floor"}
RECORDED_VIEWS: dict[str, Draw] = STEP_VIEWS | {"Record": record.draw_recorded}


def main() -> None:
    named = st.query_params.get("run")
    if named not in shown_runs.recorded():
        shown_runs.forget()
    sweep_id = _sweep_of(named)
    trials = [] if sweep_id is None else queries.sweep(sweep_id)[1]
    labels = trial_labels(trials)
    labels |= {key: f"{run.name} ({run.source})" for key, run in shown_runs.recorded().items()}
    if not labels:
        st.title("Run", anchor=False)
        st.info(
            "No trials yet. `evenload quickstart` runs a small sweep, and "
            "`evenload.attach(model, name=...)` records the training of another model."
        )
        return
    title, choice = st.columns([3, 2], vertical_alignment="center")
    with choice, st.container(horizontal=True, vertical_alignment="center"):
        choose_loss_unit()
        key = page_parts.chosen("Run", list(labels), "run", labels.__getitem__)
    run = shown_runs.find(key)
    with title:
        if isinstance(run, RecordedRun):
            page_parts.heading(run.name, RUN_STATES[run.state()])
        else:
            page_parts.heading(label_of(run), TRIAL_STATES[run.state])
    if isinstance(run, RecordedRun):
        about = f"{run.run_id}, {run.source}, rule {run.label}; last step {ago(run.updated)}"
        st.caption(for_markdown(about))
    elif sweep_id is not None:
        st.session_state[page_parts.KEPT_SWEEP] = sweep_id
        _about_trial(run, sweep_id, [trial.digest for trial in trials])
    note = st.container()
    page_parts.live(partial(_body, key), lambda: shown_runs.is_over(shown_runs.find(key)))
    if sweep_id is not None and not isinstance(run, RecordedRun):
        with note:  # the audit needs the answer of the whole sweep, and the figures do not wait
            page_parts.audit_note(queries.findings(sweep_id, run.digest))


def _sweep_of(named: str | None) -> str | None:
    """The sweep of the named run, or else the one that was looked at last or has trials."""
    known, kept = shown_runs.sweep_ids(), st.session_state.get(page_parts.KEPT_SWEEP)
    holders = queries.sweeps_of(named) if known and named else []
    if known and not holders:
        holders = [one.sweep.sweep_id for one in queries.overviews() if one.trials]
    return kept if kept in holders else next(iter(holders), None)


def _about_trial(trial: TrialRecord, sweep_id: str, digests: Sequence[str]) -> None:
    _links(trial, sweep_id, digests)
    trial_buttons(sweep_id, trial)
    if trial.error and trial.state is TrialState.FAILED:
        st.error(for_markdown(why_failed(trial)), icon=":material/error:")
        with st.expander("Traceback"):
            st.code(trial.error, language="python")


def _links(trial: TrialRecord, sweep_id: str, digests: Sequence[str]) -> None:
    at = digests.index(trial.digest)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.page_link(
            "sweep/page.py",
            label=f"Sweep {sweep_id}",
            icon=":material/grid_view:",
            query_params={"sweep": sweep_id},
        )
        for label, icon, other in (
            ("Previous run", ":material/chevron_left:", at - 1),
            ("Next run", ":material/chevron_right:", at + 1),
        ):
            if 0 <= other < len(digests):
                st.button(label, icon=icon, type="tertiary", on_click=_open, args=[digests[other]])
        for label, url in (
            ("MLflow run", run_queries.mlflow_run_url(trial)),
            ("Ray dashboard", run_queries.ray_dashboard_url()),
        ):
            if url:
                st.page_link(url, label=label, icon=":material/open_in_new:")
        st.caption(f"trial `{trial.digest}`, attempt {trial.attempt}", width="content")
    problem = run_queries.mlflow_problem()
    if problem:
        st.warning(
            f"MLflow does not answer ({for_markdown(problem)}). This page does not need it. What "
            "MLflow has missed is delivered when it is back.",
            icon=":material/cloud_off:",
        )


def _open(digest: str) -> None:
    st.query_params["run"] = digest


def _body(key: str) -> None:
    run = shown_runs.find(key)
    with st.spinner("Reading the run's steps", show_time=True):
        series = run_queries.load_series(run)
    if isinstance(run, RecordedRun):
        _recorded_summary(run, series)
        views = RECORDED_VIEWS
    else:
        _summary(run, series)
        views = VIEWS
    if torn := run_queries.torn_files(run):
        first, last = min(part.first for part in torn), max(part.last for part in torn)
        names = listed([f"{part.path.parent.name}/{part.path.name}" for part in torn[:3]])
        st.warning(
            f"{counted(len(torn), 'file')} cannot be read, with steps between {first:,} and "
            f"{last:,}: {names}. Charts lack what only they hold. Restore them from a backup or "
            "the mirror.",
            icon=":material/broken_image:",
        )
    # The cockpit is for a run that goes on; of one that is over, the loads come first.
    start = "Load" if shown_runs.is_over(run) else "Cockpit"
    view = page_parts.chosen_view(sorted(views, key=lambda one: one != start))
    if view in STEP_VIEWS and series.is_empty:
        st.info("No step is recorded yet. This page shows data as soon as there are steps.")
    else:
        views[view](run, series)


def _recorded_summary(run: RecordedRun, series: LoadSeries) -> None:
    shape, planned = run.shape, run.planned_steps
    shown = ("max_vio", "max_vio_floor", "max_vio_ratio", "idle_frac", "dead_tenth")
    found = [(METRICS[name], shown_runs.figure_of(run, name)) for name in shown]
    page_parts.metrics(
        ("Steps", short(series.last_step) + (f" / {short(planned)}" if planned else ""), ""),
        ("Experts", f"{shape.top_k} of {shape.num_experts}", f"in {shape.num_layers} layers"),
        *(
            (
                SHORTER.get(m.name, m.title),
                m.shown(value / 100 if m.is_share else value),
                f"{m.meaning}; {m.window}",
            )
            for m, value in found
        ),
        ("Missing steps", f"{run.dropped_steps:,}", "the disk could not be written"),
    )


def _summary(trial: TrialRecord, series: LoadSeries) -> None:
    spec = spec_of(trial)
    when, balance = _balance_figures(trial, series)
    floor = {"max_vio_floor": Loads.of(spec).max_vio_floor}
    balance = {"max_vio": balance["max_vio"]} | floor | balance
    loss, unit = METRICS[LOSS], unit_of_runs([trial])
    wrong, torn = series.miscounted_steps, len(run_queries.torn_files(trial))
    check = NONE if series.is_empty else f"{wrong} wrong steps" if wrong else "passed"
    check = counted(torn, "damaged file") if torn else check
    page_parts.metrics(
        (
            "Steps",
            f"{short(series.last_step)} / {short(spec.train.steps)}",
            f"{series.last_step:,} of {spec.train.steps:,} optimizer steps",
        ),
        (unit.head, loss.shown(figure(trial, LOSS, unit)), loss.meaning),
        *(
            (METRICS[name].title, METRICS[name].shown(value), f"{METRICS[name].meaning}; {when}")
            for name, value in balance.items()
        ),
        ("Count check", check, METRICS["count_check"].meaning),
    )


def _balance_figures(trial: TrialRecord, series: LoadSeries) -> tuple[str, dict[str, float]]:
    """The window and the figures: those of the steady state, or the newest ones before it."""
    if "max_vio" in trial.result or series.is_empty:
        names = ("max_vio", "idle_frac", "effective_util")
        return "mean of the last quarter", {name: trial.figure(name) for name in names}
    vio_L = series.max_vio_BL[-1]
    newest = "newest step" if series.bin_steps == 1 else f"newest {series.bin_steps} steps"
    return newest, {
        "max_vio": float(vio_L.mean()),
        "idle_frac": float(series.idle_BL[-1].mean()),
        "effective_util": float((1 / (1 + vio_L)).mean()),
    }


main()
