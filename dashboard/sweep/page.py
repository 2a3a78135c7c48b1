"""One sweep: answer, grid, front, learning curves, parameters and trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from evenload.dashboard import queries
from evenload.dashboard.controls import verb_buttons
from evenload.dashboard.loss_unit import LossUnit, choose_loss_unit, loss_unit
from evenload.dashboard.page_parts import (
    chosen,
    chosen_view,
    clicked_row,
    heading,
    live,
    metric_columns,
    metrics,
    table_height,
)
from evenload.dashboard.record_tables import (
    count,
    elapsed_seconds,
    eta_seconds,
    further,
    progress,
    trial_table,
)
from evenload.dashboard.sweep.board import board
from evenload.dashboard.sweep.sections import (
    curves_section,
    front_section,
    grid_section,
    parameters_section,
)
from evenload.dashboard.sweep.step_sizes import step_sizes_section
from evenload.dashboard.wording import TRIAL_STATES, sweep_wording
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.metrics import columns
from evenload.pipeline.figures.wording import duration
from evenload.pipeline.states import SweepRecord, SweepState, TrialRecord, TrialState
from evenload.pipeline.sweep.axes import Axes
from evenload.pipeline.sweep.setting import LOSS

MAX_TALL_ROWS = 30  # longer tables scroll
MAX_FAILURES = 20  # largest number of tracebacks on the page


def main() -> None:
    sweep_ids = queries.sweep_ids()
    if not sweep_ids:
        st.title("Sweep", anchor=False)
        st.info("No sweeps yet. `evenload quickstart` runs a small one.")
        return
    title, unit, choice = st.columns([5, 2, 3], vertical_alignment="center")
    with choice:
        sweep_id = chosen("Sweep", sweep_ids, "sweep", str)
    with unit:
        choose_loss_unit()
    with title:
        sweep, trials = queries.sweep(sweep_id)
        heading(sweep.name, sweep_wording(sweep, trials))
    if sweep.note:
        st.warning(
            f"Paused automatically: {for_markdown(sweep.note)}", icon=":material/pause_circle:"
        )
    verb_buttons(sweep, trials)
    live(partial(_body, sweep_id), partial(_is_over, sweep_id))


def _is_over(sweep_id: str) -> bool:
    return queries.sweep(sweep_id)[0].state not in (SweepState.ACTIVE, SweepState.STOPPING)


def _body(sweep_id: str) -> None:
    sweep, trials = queries.sweep(sweep_id)
    if not trials:
        st.info("The trials are not listed yet. `evenload serve` lists them before it runs them.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        view = chosen_view(VIEWS)
        _summary(sweep, trials)
    VIEWS[view](sweep, trials)


def _summary(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> None:
    """How far the sweep is; counts of zero are left out."""
    counts = [
        ("running", sum(trial.state.is_held for trial in trials), ""),
        ("stopped early", count(trials, TrialState.STOPPED), "by a policy or a user; see Curves"),
        ("failed", count(trials, TrialState.FAILED), "see Runs for tracebacks"),
    ]
    done = f"{count(trials, TrialState.COMPLETED)} of {len(trials)}"
    times = [("ran for", elapsed_seconds(trials)), ("time left", eta_seconds(sweep, trials))]
    metrics(
        ("steps", f"{100 * progress(trials):.0f} %", "share of all steps that are done"),
        ("completed", done, ""),
        *((name, f"{number}", why) for name, number, why in counts if number),
        *((name, duration(seconds), "") for name, seconds in times if seconds == seconds),
    )


def _trials(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> None:
    axes = queries.answer(sweep.sweep_id).axes
    unit = loss_unit(trials)
    table, config = trial_table(trials, axes), _columns(axes, unit)
    table[LOSS] *= unit.factor
    height = table_height(table, MAX_TALL_ROWS)
    row = clicked_row(_shown(table, config), "trials", config, height=height)
    st.caption("Click a trial to open its run. Click the head of a column to sort by it.")
    if row is not None:
        st.switch_page("run/page.py", query_params={"run": table.digest[row]})
    _failures([trial for trial in trials if trial.state is TrialState.FAILED], axes)


def _shown(table: pd.DataFrame, config: dict[str, Any]) -> pd.DataFrame:
    states = table.state.map(lambda state: [TRIAL_STATES[TrialState(state)].text])
    return table.assign(state=states)[[*config]]


def _columns(axes: Axes, unit: LossUnit) -> dict[str, Any]:
    config = st.column_config
    states = TRIAL_STATES.values()
    return {
        "rule": config.TextColumn("Rule", pinned=True),
        "step_size": config.NumberColumn("Step size", format="%.4g"),
        "experts": config.NumberColumn("Experts", help="routed experts per layer"),
        **{key: config.Column(key.rpartition(".")[2].replace("_", " ")) for key in further(axes)},
        "seed": config.NumberColumn("Seed"),
        "state": config.MultiselectColumn(
            "State",
            options=[state.text for state in states],
            color=[state.colour for state in states],
        ),
        "progress": config.ProgressColumn("Steps", format="%.0f %%", min_value=0, max_value=100),
        **metric_columns(columns(), unit),
        "failures": config.NumberColumn("Retries", help="attempts that were lost and repeated"),
    }


def _failures(failed: Sequence[TrialRecord], axes: Axes) -> None:
    if not failed:
        return
    st.subheader("Failed trials", anchor=False)
    for trial in failed[:MAX_FAILURES]:
        when = (
            f"after step {trial.progress.step:,}" if trial.progress else "before a progress report"
        )
        with st.expander(f"{for_markdown(axes.name(trial))}: failed {when}"):
            st.code(trial.error or "no traceback was recorded", language="python")
            st.page_link(
                "run/page.py",
                label="Open the run",
                icon=":material/monitoring:",
                query_params={"run": trial.digest},
            )
    if len(failed) > MAX_FAILURES:
        st.caption(f"{len(failed) - MAX_FAILURES} more failed; see `evenload sweep status`.")


# The views of the page: each function draws one from the sweep and its trials.
VIEWS: dict[str, Callable[[SweepRecord, Sequence[TrialRecord]], None]] = {
    "Answer": board,
    "Grid": grid_section,
    "Front": front_section,
    "Step sizes": step_sizes_section,
    "Curves": curves_section,
    "Parameters": parameters_section,
    "Trials": _trials,
}

main()
