"""The selection biases over time, their spread, and their drift."""

import streamlit as st

from evenload.dashboard.page_parts import card, plot
from evenload.dashboard.run.views.layers import bins, chosen_layer, layer_names
from evenload.dashboard.shown_runs import Run
from evenload.pipeline.charts.over_time import bias_paths, by_layer
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.records.load_series import LoadSeries

DRIFT, SPREAD = "bias drift, score units per step", "bias spread, score units"


def draw(run: Run, series: LoadSeries) -> None:
    if not series.bias_spread_BL.any():
        st.info(
            f"{for_markdown(run.label)} has no biases, or none has moved: there is nothing to draw."
        )
        return
    names = layer_names(run)
    with card("Bias of each expert", metric="bias"):
        layer = chosen_layer(names)
        chart = bias_paths(series.bias_BE(layer), series.step_B)
        caption = "Coloured by the last bias: blue holds an expert back, orange helps it."
        plot(chart, "bias", caption)
    left, right = st.columns(2)
    with left, card("Bias drift by layer", metric="bias_drift"):
        chart = by_layer(series.bias_drift_BL, series.step_B, names, DRIFT, ".3g", height=300)
        plot(chart, "bias-drift", bins(series, "between their last steps"))
    with right, card("Bias spread by layer", metric="bias_spread"):
        chart = by_layer(series.bias_spread_BL, series.step_B, names, SPREAD, ".3g", height=300)
        plot(chart, "bias-spread", bins(series, "the last step of each"))
