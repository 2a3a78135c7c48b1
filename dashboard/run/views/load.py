"""The load of every expert: in all layers at one step, and in one layer over time."""

import streamlit as st

from evenload.dashboard.page_parts import card, plot, readable_errors, switch
from evenload.dashboard.run import queries as run_queries
from evenload.dashboard.run.views.layers import bins, chosen_layer, layer_names
from evenload.dashboard.shown_runs import Run, is_over, steps_of
from evenload.pipeline.charts.loads import load_by_layer, load_over_time
from evenload.pipeline.records.load_series import LoadSeries

WINDOWS = {"1 step": 1, "10 steps": 10, "100 steps": 100}
EVALUATION = "evaluation"
LARGEST, MEAN = "largest step", "mean"


def draw(run: Run, series: LoadSeries) -> None:
    with card("Load by layer and expert", metric="utilisation"):
        _by_layer(run, series)
    with card("Load of one layer over time", metric="utilisation"):
        _over_time(run, series)


def _by_layer(run: Run, series: LoadSeries) -> None:
    step, summed, order = st.columns([4, 3, 1.4], vertical_alignment="bottom")
    evaluated_LE = None
    with readable_errors():  # the steps are shown without the evaluation
        evaluated_LE = run_queries.eval_percent(run)
    windows = [*WINDOWS] if evaluated_LE is None else [*WINDOWS, EVALUATION]
    window = switch("Summed over", windows, "window", 1, place=summed)
    # The slider reaches to the planned end, because a growing range would make it jump.
    end = max(2, series.last_step if is_over(run) else steps_of(run, series))
    last = step.slider(
        "Last step", 1, end, end, disabled=window == EVALUATION, key="step", bind="query-params"
    )
    is_sorted = order.toggle(
        "Sort experts", help="busiest first in each layer", key="sorted", bind="query-params"
    )
    if window == EVALUATION and evaluated_LE is not None:
        percent_LE, covered = evaluated_LE, "The whole evaluation set, biases frozen."
    else:
        steps = WINDOWS.get(window, 1)
        shown = run_queries.load_window(run, min(last, series.last_step), steps)
        percent_LE, covered = shown.percent_LE, f"Steps {shown.first:,} to {shown.last:,}."
    if not percent_LE.size:
        st.warning(f"No counts can be read for the step {min(last, series.last_step):,}: it was "
                   "not recorded, or its file is damaged. Choose another step.")  # fmt: skip
        return
    chart = load_by_layer(percent_LE, layer_names(run), is_sorted)
    plot(chart, "load-by-layer", covered)


def _over_time(run: Run, series: LoadSeries) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        layer = chosen_layer(layer_names(run))
        binned = series.bin_steps > 1
        reduced = LARGEST
        if binned:
            explanation = "The largest step shows every spike; the mean shows lasting differences."
            reduced = switch("Each bin shows its", [LARGEST, MEAN], "binned", help=explanation)
    is_mean = reduced == MEAN
    percent_BE = series.mean_percent_BE(layer) if is_mean else series.percent_BE(layer)
    idle = "Idle means idle in every step of the bin." if binned else ""
    chart = load_over_time(percent_BE, series.step_B, is_mean)
    caption = bins(series, "their mean" if is_mean else "the largest of each") + idle
    plot(chart, "load-over-time", caption)
