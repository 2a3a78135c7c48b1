"""What the views of a run share: naming layers, choosing one, saying how time is binned."""

from __future__ import annotations

import streamlit as st

from evenload.dashboard.record_tables import spec_of
from evenload.pipeline.records.load_series import LoadSeries
from evenload.pipeline.states import TrialRecord


def layer_names(trial: TrialRecord) -> list[str]:
    """Counted as in the model: dense layers come first and have no experts."""
    model = spec_of(trial).model
    return [str(model.num_dense_layers + index) for index in range(model.num_moe_layers)]


def chosen_layer(names: list[str]) -> int:
    """The index of the layer that the address names; one choice for all views."""
    name = st.selectbox("Layer", names, key="layer", bind="query-params", width=140)
    return names.index(str(name))


def bins(series: LoadSeries, reduced: str = "the largest value of each") -> str:
    """How many steps a point stands for."""
    if series.bin_steps == 1:
        return "Every step. "
    return f"Bins of {series.bin_steps:,} steps, {reduced}. "
