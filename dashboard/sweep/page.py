"""One sweep: answer, grid, front, learning curves, parameters and trials."""

from collections.abc import Callable, Sequence
from functools import partial

import streamlit as st

from evenload.dashboard import queries
from evenload.dashboard.controls import verb_buttons
from evenload.dashboard.loss_unit import choose_loss_unit
from evenload.dashboard.page_parts import chosen, chosen_view, heading, live, metrics
from evenload.dashboard.record_tables import count, elapsed_seconds, eta_seconds, progress
from evenload.dashboard.sweep.board import board
from evenload.dashboard.sweep.runs import compare_link, runs_section
from evenload.dashboard.sweep.sections import curves_section, front_section
from evenload.dashboard.sweep.step_sizes import step_sizes_section
from evenload.dashboard.wording import sweep_wording
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.wording import duration
from evenload.pipeline.states import SweepRecord, TrialRecord, TrialState


def main() -> None:
    sweep_ids = queries.sweep_ids()
    if not sweep_ids:
        st.title("Sweep", anchor=False)
        st.info("No sweeps yet. `evenload quickstart` runs a small one.")
        return
    title, choice = st.columns([1, 1], vertical_alignment="center")
    with choice, st.container(horizontal=True, vertical_alignment="center"):
        choose_loss_unit()
        sweep_id = chosen("Sweep", sweep_ids, "sweep", str)
    with title:
        sweep, trials = queries.sweep(sweep_id)
        heading(sweep.name, sweep_wording(sweep, trials))
    if sweep.note:
        st.warning(
            f"Paused automatically: {for_markdown(sweep.note)}", icon=":material/pause_circle:"
        )
    verb_buttons(sweep, count(trials, TrialState.FAILED))
    live(partial(_body, sweep_id), partial(queries.is_over, sweep_id))


def _body(sweep_id: str) -> None:
    sweep, trials = queries.sweep(sweep_id)
    if not trials:
        st.info("The trials are not listed yet. `evenload serve` lists them before it runs them.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        view = chosen_view(VIEWS)
        _summary(sweep, trials)
        compare_link(trials)
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


# The views of the page: each function draws one from the sweep and its trials.
VIEWS: dict[str, Callable[[SweepRecord, Sequence[TrialRecord]], None]] = {
    "Answer": board,
    "Runs": runs_section,
    "Front": front_section,
    "Step sizes": step_sizes_section,
    "Curves": curves_section,
}

main()
