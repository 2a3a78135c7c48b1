"""One sweep: its grid of settings and expert counts, its trials, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import queries
from dashboard.charts.sweep_grid import GRID_METRICS, sweep_grid
from dashboard.frame import card, chosen, heading, live, metrics, plot
from dashboard.frames import (
    count,
    elapsed_seconds,
    eta_seconds,
    grid,
    label_of,
    progress,
    trial_table,
)
from dashboard.wording import SWEEP_STATES, TRIAL_STATES, duration
from pipeline.records import SweepRecord, SweepState, TrialRecord, TrialState
from pipeline.sweep.recommend import recommend

MAX_TALL_ROWS = 30  # longer tables scroll
EXPLANATIONS = {
    "val_bits_per_byte": "Loss on held-out text. Lower is better.",
    "max_vio": "Load of the fullest expert over its fair share, minus 1; mean over layers and the "
    "last quarter of the steps. 0 is even; chance alone gives the sampling floor.",
    "idle_frac": "Experts without a token in one optimizer step; last quarter of the steps.",
    "effective_util": "Mean over largest load: the busy share of a step in which everyone waits "
    "for the fullest expert. Last quarter of the steps.",
}


def main() -> None:
    sweep_ids = [sweep.sweep_id for sweep, _ in queries.sweeps()]
    if not sweep_ids:
        st.title("Sweep", anchor=False)
        st.info("No sweeps yet. `evenload quickstart` runs a small one.")
        return
    title, choice = st.columns([3, 2], vertical_alignment="center")
    with choice:
        sweep_id = chosen("Sweep", sweep_ids, "sweep", str)
    with title:
        sweep, _ = queries.sweep(sweep_id)
        heading(sweep.name, SWEEP_STATES[sweep.state])
    live(partial(_body, sweep_id), partial(_is_over, sweep_id))


def _is_over(sweep_id: str) -> bool:
    return queries.sweep(sweep_id)[0].state is not SweepState.ACTIVE


def _body(sweep_id: str) -> None:
    sweep, trials = queries.sweep(sweep_id)
    _summary(sweep, trials)
    if not trials:
        st.info("The trials are not listed yet; whoever runs the sweep lists them first.")
        return
    st.info(recommend(trials).sentence, icon=":material/balance:")
    _grids(trials)
    _trials(trials)
    _failures([trial for trial in trials if trial.state is TrialState.FAILED])


def _summary(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> None:
    metrics(
        ("Progress", f"{100 * progress(trials):.0f} %", "share of all steps that are done"),
        ("Completed", f"{count(trials, TrialState.COMPLETED)} of {len(trials)}", ""),
        ("Running", f"{sum(trial.state.is_held for trial in trials)}", ""),
        ("Failed", f"{count(trials, TrialState.FAILED)}", ""),
        ("Ran for", duration(elapsed_seconds(trials)), ""),
        ("Time left", duration(eta_seconds(sweep, trials)), "at the pace so far"),
    )


def _grids(trials: Sequence[TrialRecord]) -> None:
    st.subheader("Setting by expert count", anchor=False)
    left, right = st.columns(2)
    for position, metric in enumerate(GRID_METRICS):
        with left if position % 2 == 0 else right, card(metric.title, EXPLANATIONS[metric.name]):
            plot(sweep_grid(grid(trials, metric.name), metric), key=f"grid-{metric.name}")


def _trials(trials: Sequence[TrialRecord]) -> None:
    st.subheader("Trials", anchor=False)
    table = trial_table(trials)
    picked = st.dataframe(
        _shown(table),
        hide_index=True,
        key="trials",
        on_select="rerun",
        selection_mode="single-cell",
        column_config=_columns(),
        placeholder="–",
        height="content" if len(table) <= MAX_TALL_ROWS else 36 * MAX_TALL_ROWS,
    )
    st.caption("Click a trial to open its run. Columns sort by a click on their head.")
    if picked.selection.cells:
        row = picked.selection.cells[0][0]
        st.switch_page("app_pages/run.py", query_params={"run": table.digest[row]})


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    states = table.state.map(lambda state: [TRIAL_STATES[TrialState(state)].text])
    return table.assign(state=states)[[*_columns()]]


def _columns() -> dict[str, Any]:
    config = st.column_config
    states = TRIAL_STATES.values()
    return {
        "rule": config.TextColumn("Rule", pinned=True),
        "step_size": config.NumberColumn("Step size", format="%.4g"),
        "experts": config.NumberColumn("Experts", help="routed experts a layer"),
        "seed": config.NumberColumn("Seed"),
        "state": config.MultiselectColumn(
            "State",
            options=[state.text for state in states],
            color=[state.colour for state in states],
        ),
        "progress": config.ProgressColumn("Steps", format="%.0f %%", min_value=0, max_value=100),
        "val_bits_per_byte": config.NumberColumn("Loss, bits/byte", format="%.3f", help="held out"),
        "max_vio": config.NumberColumn("MaxVio", format="%.2f", help=EXPLANATIONS["max_vio"]),
        "max_vio_floor": config.NumberColumn("floor", format="%.2f", help="MaxVio by chance alone"),
        "max_vio_global": config.NumberColumn(
            "MaxVio eval", format="%.3f", help="over the whole evaluation set, biases frozen"
        ),
        "max_vio_global_floor": config.NumberColumn(
            "eval floor", format="%.3f", help="MaxVio by chance alone over as many tokens"
        ),
        "idle_frac": config.NumberColumn("Idle", format="%.1f %%", help=EXPLANATIONS["idle_frac"]),
        "dead_tenth": config.NumberColumn(
            "Dead", format="%.1f %%", help="experts below a tenth of their share, last 100 steps"
        ),
        "effective_util": config.NumberColumn(
            "Utilisation", format="%.0f %%", help=EXPLANATIONS["effective_util"]
        ),
        "tokens_per_second": config.NumberColumn("Tokens/s", format="localized", step=1),
        "failures": config.NumberColumn("Retries", help="attempts that were lost and repeated"),
    }


def _failures(failed: Sequence[TrialRecord]) -> None:
    if not failed:
        return
    st.subheader("Failed trials", anchor=False)
    for trial in failed:
        when = (
            f"after step {trial.progress.step:,}" if trial.progress else "before a progress report"
        )
        with st.expander(f"{label_of(trial)}: failed {when}"):
            st.code(trial.error or "no traceback was recorded", language="python")
            st.page_link(
                "app_pages/run.py",
                label="Open the run",
                icon=":material/monitoring:",
                query_params={"run": trial.digest},
            )


main()
