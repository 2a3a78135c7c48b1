"""The training loss, gradient norm and learning rate, and the throughput."""

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from evenload.dashboard.loss_unit import NATS, unit_of_runs
from evenload.dashboard.page_parts import card, plot
from evenload.dashboard.run.views.layers import bins
from evenload.dashboard.shown_runs import Run
from evenload.pipeline.charts.over_time import loss_curve, single_curve
from evenload.pipeline.charts.style import GREEN, ORANGE
from evenload.pipeline.records.load_series import LoadSeries


def draw(run: Run, series: LoadSeries) -> None:
    left, right = st.columns(2)
    speed, norm, rate = series.tokens_per_second_B, series.grad_norm_max_B, series.learning_rate_B
    loss, told = series.loss_B, np.isfinite(series.loss_B)
    if not told.any():
        st.info("Nobody told this run its loss: `balance.log(loss=loss)` does, after each step.")
    unit = unit_of_runs([run], NATS)
    with left, card("Training loss", metric="train_loss"):
        chart = loss_curve(
            unit.factor * loss[told],
            unit.factor * series.loss_max_B[told],
            series.step_B[told],
            f"loss, {unit.name}",
        )
        plot(chart, "loss", bins(series, "mean and largest of each"))
    with right, card("Throughput", metric="tokens_per_second"):
        chart = single_curve(*_told(speed, series), "tokens per second", ",.0f", colour=GREEN)
        plot(chart, "throughput", bins(series, "the mean of each"))
    with left, card("Gradient norm", metric="grad_norm"):
        chart = single_curve(
            *_told(norm, series),
            "gradient norm, before clipping",
            ".3g",
            colour=ORANGE,
            from_zero=False,
        )
        plot(chart, "grad-norm", bins(series))
    with right, card("Learning rate", metric="learning_rate"):
        chart = single_curve(*_told(rate, series), "learning rate", ".3g")
        plot(chart, "learning-rate", bins(series, "the last step of each"))


def _told(
    value_B: NDArray[np.float32], series: LoadSeries
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The values that are known, and their steps."""
    known_B = np.isfinite(value_B)
    return value_B[known_B], series.step_B[known_B]
