from __future__ import annotations

import numpy as np

from evenload.dashboard.charts.style import says
from evenload.dashboard.charts.system import MAX_POINTS, resource_curve


def test_few_samples_are_drawn_as_they_are() -> None:
    chart = resource_curve(np.array([10.0, 30.0]), np.array([5.0, 9.0]), "Memory", "GiB")
    assert list(chart.data[0].x) == [5, 9]
    assert list(chart.data[0].y) == [10, 30]
    assert says(chart) == "Memory over time: mean 20.0, at most 30.0 GiB."


def test_peak_of_many_samples_survives() -> None:
    value_N = np.full(60_001, 50.0)
    value_N[31_415] = 99.0
    chart = resource_curve(value_N, np.arange(60_001, dtype=np.float64), "GPU", "% busy")
    trace = chart.data[0]
    assert len(trace.y) == len(trace.x) == MAX_POINTS
    assert max(trace.y) == 99
    assert abs(trace.x[int(np.argmax(trace.y))] - 31_415) < 60_001 / MAX_POINTS
