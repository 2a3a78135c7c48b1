"""Parts that the views of a run share: names of layers, the choice of one, captions for bins."""

import streamlit as st

from evenload.dashboard.shown_runs import Run, outline_of
from evenload.pipeline.records.load_series import LoadSeries


def layer_names(run: Run) -> list[str]:
    """The names of the expert layers, such as their numbers among all layers of the model."""
    return list(outline_of(run).shape.layers)


def chosen_layer(names: list[str]) -> int:
    """The index of the chosen layer. The choice is part of the address and holds for all views."""
    name = st.selectbox("Layer", names, key="layer", bind="query-params", width=140)
    return names.index(str(name))


def bins(series: LoadSeries, reduced: str = "the largest value of each") -> str:
    """A sentence that tells how many steps a point represents."""
    if series.bin_steps == 1:
        return "Every step. "
    return f"Bins of {series.bin_steps:,} steps, {reduced}. "
