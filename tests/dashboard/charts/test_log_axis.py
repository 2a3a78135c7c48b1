from __future__ import annotations

import math

import plotly.graph_objects as go

from evenload.dashboard.charts.log_axis import log_ticks, make_logarithmic, spans


def test_ticks_are_named_in_full_around_the_values() -> None:
    ticks = log_ticks([0.2, 6.0])
    assert {0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10} <= set(ticks)
    assert log_ticks([1e-6, 1.0])[1:4] == [1e-6, 1e-5, 1e-4]
    assert log_ticks([]) == []


def test_values_that_no_logarithm_has_are_left_out() -> None:
    chart = go.Figure(go.Scatter(y=[1]))
    make_logarithmic(chart, "y", [0.0, -1.0, math.nan, 0.5, 2.0])
    assert chart.layout.yaxis.type == "log"
    assert "0.5" in chart.layout.yaxis.ticktext


def test_only_values_far_apart_span() -> None:
    assert spans([0.1, 2.0])
    assert not spans([0.5, 2.0])
    assert not spans([0.0, 5.0])
    assert not spans([])
