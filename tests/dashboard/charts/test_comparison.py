from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from evenload.dashboard.charts.comparison import (
    Curve,
    curves,
    difference_map,
    load_by_rank,
    load_map,
)
from evenload.dashboard.charts.style import LIGHT, says


def _trace(chart: go.Figure, index: int = 0) -> Any:
    return chart.data[index]


def test_runs_of_any_expert_count_span_the_same_axis() -> None:
    chart = load_by_rank({"few": np.array([150, 50], np.int16), "many": np.full(64, 100, np.int16)})
    for trace, experts in zip(chart.data, (2, 64), strict=True):
        assert (trace.x[0], trace.x[-1]) == (0, 100)
        assert len(trace.x) == experts + 1
    assert list(_trace(chart).y) == [1.5, 0.5, 0.5]
    assert "few 1.50 times" in says(chart)


def test_curves_carry_their_own_floor_in_their_colour() -> None:
    x_B, y_B = np.array([1.0, 2.0]), np.array([0.5, 0.25], np.float32)
    chart = curves({"a": Curve(x_B, y_B, 0.125), "b": Curve(x_B, 2 * y_B)}, "steps", "MaxVio", "")
    assert [trace.name for trace in chart.data] == ["a", "b", "floor of a"]
    assert list(_trace(chart, 2).y) == [0.125, 0.125]
    assert _trace(chart, 2).line.color == _trace(chart).line.color
    assert _trace(chart).line.color != _trace(chart, 1).line.color


def test_eight_runs_can_be_told_apart() -> None:
    one = Curve(np.array([1.0, 2.0]), np.array([1.0, 2.0], np.float32))
    chart = curves({f"run {n}": one for n in range(8)}, "steps", "loss", "")
    assert len({(trace.line.color, trace.line.dash) for trace in chart.data}) == 8
    assert {trace.line.dash for trace in chart.data} == {"solid", "dash"}


def test_maps_of_different_sizes_share_axes_and_colours() -> None:
    one = load_map(np.full((2, 64), 100, np.int16), "small")
    other = load_map(np.full((26, 64), 100, np.int16), "large")
    for chart in (one, other):
        assert tuple(chart.layout.xaxis.range) == (0, 100)
        assert tuple(chart.layout.yaxis.range) == (100, 0)
        assert (_trace(chart).zmin, _trace(chart).zmax) == (0, 200)


def test_no_difference_has_the_neutral_colour_and_more_is_above_it() -> None:
    points_DQ = np.array([[-50, 0, 150]], np.int16)
    chart = difference_map(points_DQ, "a", "b")
    heatmap = _trace(chart)
    assert (heatmap.zmin, heatmap.zmax) == (-100, 100)
    assert heatmap.colorscale[2] == (0.5, LIGHT.fair)
    assert heatmap.colorscale[-1][1] == LIGHT.highest
    assert "from -50 to +150" in says(chart)
