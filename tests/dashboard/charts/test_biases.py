from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from evenload.dashboard.charts.biases import MAX_LINES, bias_paths


def _trace(chart: go.Figure, index: int = 0) -> Any:
    return chart.data[index]


def test_bias_paths_are_coloured_by_where_they_end() -> None:
    bias_BE = np.array([[0, 0, 0], [1, -1, 0.5]], np.float32)
    chart = bias_paths(bias_BE, np.array([1, 2], np.int32))
    assert [trace.name for trace in chart.data] == ["expert 1", "expert 2", "expert 0"]
    assert list(_trace(chart, 2).y) == [0, 1]


def test_of_many_experts_the_extremes_are_among_the_drawn() -> None:
    bias_BE = np.arange(500, dtype=np.float32)[None].repeat(3, axis=0)
    chart = bias_paths(bias_BE, np.arange(1, 4, dtype=np.int32))
    names = [trace.name for trace in chart.data]
    assert len(names) == MAX_LINES
    assert (names[0], names[-1]) == ("expert 0", "expert 499")
