from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from evenload.dashboard.charts.balance import idle_over_time, max_vio_over_time


def _trace(chart: go.Figure, index: int = 0) -> Any:
    return chart.data[index]


def test_max_vio_stands_beside_its_floor() -> None:
    vio_BL = np.array([[0.5, 0.25], [0.4, 0.2]], np.float32)
    chart = max_vio_over_time(vio_BL, np.array([1, 2], np.int32), ["1", "2"], 0.125)
    assert [trace.name for trace in chart.data] == ["layer 1", "layer 2", "sampling floor 0.12"]
    np.testing.assert_array_equal(_trace(chart, 1).y, vio_BL[:, 1])
    assert list(_trace(chart, 2).y) == [0.125, 0.125]


def test_idle_experts_are_percent_beside_chance() -> None:
    idle_BL = np.array([[0.0625], [0.0]], np.float32)
    chart = idle_over_time(idle_BL, np.array([1, 2], np.int32), ["1"], 0.02)
    assert list(_trace(chart).y) == [6.25, 0.0]
    assert _trace(chart, 1).name == "by chance 2.00 %"
    nearly_none = idle_over_time(idle_BL, np.array([1, 2], np.int32), ["1"], 1e-30)
    assert _trace(nearly_none, 1).name == "by chance none"
