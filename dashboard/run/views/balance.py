"""Imbalance and idle experts per layer over time."""

import streamlit as st

from evenload.dashboard.page_parts import card, plot
from evenload.dashboard.run.views.layers import bins, layer_names
from evenload.dashboard.shown_runs import Run, chance
from evenload.pipeline.charts.loads import longest_idle_streaks
from evenload.pipeline.charts.over_time import by_layer, idle_over_time, max_vio_over_time
from evenload.pipeline.records.load_series import LoadSeries


def draw(run: Run, series: LoadSeries) -> None:
    fair, names = chance(run, series), layer_names(run)
    left, right = st.columns(2)
    with left, card("MaxVio by layer", metric="max_vio"):
        chart = max_vio_over_time(series.max_vio_BL, series.step_B, names, fair.max_vio_floor)
        plot(chart, "max-vio", bins(series) + "Dashed: the MaxVio of a fair router by chance.")
    with right, card("Idle experts by layer", metric="idle_frac"):
        chart = idle_over_time(series.idle_BL, series.step_B, names, fair.idle_expected)
        plot(chart, "idle", bins(series) + "Dashed: the share that random routing leaves idle.")
    with left, card("Idle streak by layer", metric="idle_streak"):
        chart = by_layer(series.streak_BL, series.step_B, names, "longest idle streak, steps", ",d")
        plot(chart, "idle-streak", bins(series) + "The streak is that of the longest idle expert.")
    with right, card("Longest idle streak of each expert", metric="idle_streak_max"):
        chart = longest_idle_streaks(series.streak_LE, names)
        plot(chart, "idle-streaks", "Over the whole run. Blank: the expert was never idle.")
