"""The training loss, gradient norm and learning rate, and the throughput."""

from __future__ import annotations

import streamlit as st

from evenload.dashboard.page_parts import card, plot
from evenload.dashboard.run.views.layers import bins
from evenload.pipeline.charts.over_time import loss_curve, single_curve
from evenload.pipeline.charts.style import GREEN, ORANGE
from evenload.pipeline.records.load_series import LoadSeries
from evenload.pipeline.states import TrialRecord


def draw(trial: TrialRecord, series: LoadSeries) -> None:
    left, right = st.columns(2)
    steps, speed, norm = series.step_B, series.tokens_per_second_B, series.grad_norm_max_B
    with left, card("Training loss", metric="train_loss"):
        plot(
            loss_curve(series.loss_B, series.loss_max_B, steps),
            key="loss",
            caption=bins(series, "mean and largest of each"),
        )
    with right, card("Throughput", metric="tokens_per_second"):
        plot(
            single_curve(speed, steps, "tokens per second", ",.0f", colour=GREEN),
            key="throughput",
            caption=bins(series, "the mean of each"),
        )
    with left, card("Gradient norm", metric="grad_norm"):
        plot(
            single_curve(
                norm, steps, "gradient norm, before clipping", ".3g", colour=ORANGE, from_zero=False
            ),
            key="grad-norm",
            caption=bins(series),
        )
    with right, card("Learning rate", metric="learning_rate"):
        plot(
            single_curve(series.learning_rate_B, steps, "learning rate", ".3g"),
            key="learning-rate",
            caption=bins(series, "the last step of each"),
        )
