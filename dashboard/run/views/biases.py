"""Where the selection biases go, how far apart they are, and whether they settle."""

from __future__ import annotations

import streamlit as st

from evenload.dashboard.charts.biases import bias_drift, bias_paths, bias_spread
from evenload.dashboard.page_parts import card, plot
from evenload.dashboard.run.views.layers import bins, chosen_layer, layer_names
from evenload.pipeline.records.load_series import LoadSeries
from evenload.pipeline.states import TrialRecord


def draw(trial: TrialRecord, series: LoadSeries) -> None:
    names = layer_names(trial)
    with card("Bias of each expert", metric="bias"):
        layer = chosen_layer(names)
        plot(
            bias_paths(series.bias_BE(layer), series.step_B),
            key="bias",
            caption="Coloured by where each expert ends: blue is held back, orange is helped.",
        )
    left, right = st.columns(2)
    with left, card("Bias drift by layer", metric="bias_drift"):
        plot(
            bias_drift(series.bias_drift_BL, series.step_B, names),
            key="bias-drift",
            caption=bins(series, "from end to end of each"),
        )
    with right, card("Bias spread by layer", metric="bias_spread"):
        plot(
            bias_spread(series.bias_spread_BL, series.step_B, names),
            key="bias-spread",
            caption=bins(series, "the end of each"),
        )
