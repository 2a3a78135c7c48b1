"""The view of a sweep's step sizes: every figure of a rule against its step size."""

from collections.abc import Mapping, Sequence

import streamlit as st

from evenload.dashboard import queries
from evenload.dashboard.page_parts import card, plot
from evenload.pipeline.charts.step_sizes import step_chart
from evenload.pipeline.charts.style import Chart
from evenload.pipeline.figures.loss_unit import LossUnit
from evenload.pipeline.figures.step_curves import FIGURES, StepCurve
from evenload.pipeline.states import SweepRecord, TrialRecord
from evenload.pipeline.sweep.step_curves import ADVISED_RULE, NOTE, step_curves

TITLE_PIXELS = 250  # lower charts have no room for a long title


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
            for column, name in zip(st.columns(len(FIGURES)), FIGURES, strict=True):
                with column:
                    found = [curve for curve in curves[name] if curve.rule == rule]
                    plot(chart_in(answer.unit, found, name, advised), f"steps-{rule}-{name}")


def chart_in(
    unit: LossUnit,
    curves: Sequence[StepCurve],
    name: str,
    advised: Mapping[str, tuple[float, float]],
    height: float = 320,
) -> Chart:
    """The chart of a figure. Args: unit: of losses"""
    figure = FIGURES[name]
    if name == "loss":
        figure = figure._replace(title=unit.title if height >= TITLE_PIXELS else unit.head)
    return step_chart(curves, figure, advised, height)
