"""The training loss, gradient norm and learning rate, and the throughput."""

from __future__ import annotations

import streamlit as st

from evenload.dashboard.page_parts import card, plot
from evenload.dashboard.run.views.layers import bins
from evenload.pipeline.charts.training import (
    gradient_norm_curve,
    learning_rate_curve,
    loss_curve,
    throughput_curve,
)
from evenload.pipeline.records.load_series import LoadSeries
from evenload.pipeline.states import TrialRecord


def draw(trial: TrialRecord, series: LoadSeries) -> None:
    left, right = st.columns(2)
    with left, card("Training loss", metric="train_loss"):
        plot(
            loss_curve(series.loss_B, series.loss_max_B, series.step_B),
            key="loss",
            caption=bins(series, "mean and largest of each"),
        )
    with right, card("Throughput", metric="tokens_per_second"):
        plot(
            throughput_curve(series.tokens_per_second_B, series.step_B),
            key="throughput",
            caption=bins(series, "the mean of each"),
        )
    with left, card("Gradient norm", metric="grad_norm"):
        plot(
            gradient_norm_curve(series.grad_norm_max_B, series.step_B),
            key="grad-norm",
            caption=bins(series),
        )
    with right, card("Learning rate", metric="learning_rate"):
        plot(
            learning_rate_curve(series.learning_rate_B, series.step_B),
            key="learning-rate",
            caption=bins(series, "the last step of each"),
        )
