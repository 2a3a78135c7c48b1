from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from evenload.dashboard.charts.loads import load_by_layer, load_over_time
from evenload.dashboard.charts.style import LIGHT


def _trace(chart: go.Figure, index: int = 0) -> Any:
    return chart.data[index]


def _colour_at(scale: Any, position: float) -> str:
    """The colour of the stop at or below a position; stops of LOAD_SCALE are exact where asked."""
    return next(colour for at, colour in reversed(list(scale)) if at <= position)


def test_load_colours_are_centred_at_the_fair_share_with_idle_apart() -> None:
    percent_LE = np.array([[0, 1, 100, 350]], np.int16)
    heatmap = _trace(load_by_layer(percent_LE, ["1"]))
    assert (heatmap.zmin, heatmap.zmax) == (0, 200)
    assert _colour_at(heatmap.colorscale, 100 / 200) == LIGHT.fair
    assert _colour_at(heatmap.colorscale, 0) == LIGHT.idle
    assert _colour_at(heatmap.colorscale, 1 / 200) == LIGHT.lowest
    assert "2× and more" in heatmap.colorbar.ticktext
    np.testing.assert_array_equal(heatmap.z, percent_LE)


def test_experts_can_be_sorted_busiest_first_in_each_layer() -> None:
    percent_LE = np.array([[10, 300, 90], [100, 0, 200]], np.int16)
    heatmap = _trace(load_by_layer(percent_LE, ["1", "2"], is_sorted=True))
    assert np.asarray(heatmap.z).tolist() == [[300, 90, 10], [200, 100, 0]]
    assert list(heatmap.y) == ["1", "2"]


def test_time_runs_across_and_experts_down() -> None:
    percent_BE = np.array([[100, 50], [200, 0], [30, 170]], np.int16)
    heatmap = _trace(load_over_time(percent_BE, np.array([1, 11, 21], np.int32)))
    assert np.asarray(heatmap.z).tolist() == [[100, 200, 30], [50, 0, 170]]
    assert list(heatmap.x) == [1, 11, 21]


def test_uncounted_cells_are_blank_and_not_idle() -> None:
    heatmap = _trace(load_by_layer(np.array([[-1, 0]], np.int16), ["1"]))
    assert np.isnan(heatmap.z[0, 0])
    assert heatmap.z[0, 1] == 0
