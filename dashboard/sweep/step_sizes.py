"""The view of a sweep's step sizes: every figure of a rule against its step size."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from evenload.dashboard import queries
from evenload.dashboard.page_parts import card, plot
from evenload.pipeline.charts.step_sizes import step_chart
from evenload.pipeline.figures.step_curves import FIGURES
from evenload.pipeline.states import SweepRecord, TrialRecord
from evenload.pipeline.sweep.step_curves import ADVISED_RULE, NOTE, step_curves


def step_sizes_section(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> None:
    """One row of charts per rule."""
    answer = queries.answer(sweep.sweep_id)
    curves = {name: step_curves(answer, name) for name in FIGURES}
    rules = dict.fromkeys(curve.rule for found in curves.values() for curve in found)
    if not rules:
        st.info("No rule has two finished step sizes. The axis `balancer.step_size` varies them.")
    for rule in rules:
        advised = queries.advised_steps(sweep.sweep_id) if rule == ADVISED_RULE else {}
        with card(f"Step size of {rule}", NOTE):
            for column, (name, figure) in zip(
                st.columns(len(FIGURES)), FIGURES.items(), strict=True
            ):
                with column:
                    chart = step_chart([c for c in curves[name] if c.rule == rule], figure, advised)
                    plot(chart, f"steps-{rule}-{name}")
