"""A run as it goes on: what is worst now, what has happened, and what waiting costs."""

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from evenload.dashboard.loss_unit import NATS, unit_of_runs
from evenload.dashboard.page_parts import card, metrics, plot
from evenload.dashboard.record_tables import spec_of
from evenload.dashboard.run import queries as run_queries
from evenload.dashboard.run.queries import Recent
from evenload.dashboard.run.views.layers import bins, layer_names
from evenload.dashboard.shown_runs import Run, chance, is_over, outline_of
from evenload.dashboard.wording import ago
from evenload.pipeline.charts.loads import load_by_layer, load_by_ranks
from evenload.pipeline.charts.timeline import timeline
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.cost import waiting
from evenload.pipeline.figures.events import Event, find_events, told
from evenload.pipeline.figures.loads import Array, rank_load, utilisation
from evenload.pipeline.figures.wording import number
from evenload.pipeline.records.load_series import LoadSeries, percent_of_fair
from evenload.pipeline.records.recorded_runs import RecordedRun

WINDOW = 100  # steps
WORST, NEWEST = 8, 8  # rows of tables
LEAST_IDLE = 100


def draw(run: Run, series: LoadSeries) -> None:
    recent = run_queries.recent(run, series.last_step, WINDOW)
    updated = run.updated if isinstance(run, RecordedRun) else run.heartbeat_at
    st.caption(
        f"Step {series.last_step:,}" + ("." if is_over(run) else f", updated {ago(updated)}.")
    )
    if recent.count_LE.size:
        _worst(run, series, recent)
    _events(run, series)
    if recent.count_LE.size:
        _ranks(run, recent)


def _worst(run: Run, series: LoadSeries, recent: Recent) -> None:
    names, util_LE = layer_names(run), utilisation(recent.count_LE, outline_of(run).target_E)
    order_L = np.argsort(-util_LE.max(axis=1))
    with card("Worst layers and experts", metric="utilisation"):
        left, right = st.columns([3, 2])
        with left:
            chart = load_by_layer(percent_of_fair(util_LE[order_L]), [names[at] for at in order_L])
            steps = (
                f"Steps {recent.first:,} to {recent.last:,}, the layer of the fullest expert first."
            )
            plot(chart, "worst-layers", steps)
        with right:
            table = worst_table(util_LE, series.idle_steps_LE, names)
            columns = {
                "Load": st.column_config.NumberColumn(format="%.0f %%", help="of the fair share")
            }
            st.dataframe(table, hide_index=True, column_config=columns, height="content")


def worst_table(util_LE: Array, idle_LE: NDArray[np.int32], names: list[str]) -> pd.DataFrame:
    """The fullest experts, and those that were idle longest or got least."""
    fullest = np.argsort(-util_LE, axis=None)[: WORST // 2]
    emptiest = np.lexsort((util_LE.ravel(), -idle_LE.ravel()))[: WORST // 2]
    shown = list(dict.fromkeys([*fullest.tolist(), *emptiest.tolist()]))
    layer, expert = np.unravel_index(shown, util_LE.shape)
    return pd.DataFrame(
        {
            "Layer": [names[at] for at in layer],
            "Expert": expert,
            "Load": 100 * util_LE[layer, expert],
            "Idle for, steps": idle_LE[layer, expert],
        }
    )


def _events(run: Run, series: LoadSeries) -> None:
    names, floor = layer_names(run), chance(run, series).max_vio_floor
    found = events_of(run, series, floor)
    unit = unit_of_runs([run], NATS)
    with card(
        "What happened", f"Experts that idle for at least {LEAST_IDLE} steps count.", "max_vio"
    ):
        title = f"loss, {unit.name}"
        chart = timeline(
            unit.factor * series.loss_B,
            title,
            series.max_vio_BL,
            floor,
            series.step_B,
            found,
            names,
        )
        plot(chart, "timeline", bins(series) + "Drag over it to zoom all three.")
        newest = sorted(found, key=lambda event: -event.first_step)[:NEWEST]
        for event in newest:
            st.markdown(f"- step {event.first_step:,}: {for_markdown(told(event, names))}")
        if not newest:
            st.markdown("No events so far.")


def events_of(run: Run, series: LoadSeries, floor: float) -> list[Event]:
    shape = outline_of(run).shape
    return find_events(
        series.step_B,
        series.last_step,
        series.max_vio_BL,
        series.streak_LBE,
        largest=shape.num_experts / shape.top_k - 1,
        floor=floor,
        least_steps=LEAST_IDLE,
    )


def _ranks(run: Run, recent: Recent) -> None:
    sizes = list(recent.waits.stretch)
    if not sizes:
        return
    with card(
        "Load by rank", "Experts are placed on ranks in order, equally many on each.", "waiting"
    ):
        start = min(sizes, key=lambda size: abs(size - 8))
        ranks = st.select_slider(
            "Expert-parallel size", sizes, start, key="ranks", bind="query-params", width=320
        )
        expert = 1 - 1 / recent.waits.stretch[ranks]
        shown = [("Experts wait", number(expert, ".1%"), "share of the expert layers' time")]
        if not isinstance(run, RecordedRun):
            spec = spec_of(run)
            of_step = {
                w.ranks: w.step_share for w in waiting(recent.waits, spec.model, spec.train.seq_len)
            }
            why = "if its time is as its FLOPs; without communication; see the page Cost"
            shown.append(("Step time lost", number(of_step[ranks], ".1%"), why))
        metrics(*shown)
        percent_LR = percent_of_fair(rank_load(recent.count_LE, ranks))
        steps = f"Steps {recent.first:,} to {recent.last:,}; waiting is counted step by step."
        plot(load_by_ranks(percent_LR, layer_names(run)), "load-by-ranks", steps)
