from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from evenload.dashboard.charts.style import LIGHT
from evenload.dashboard.charts.sweep_grid import GRID_METRICS, Metric, sweep_grid
from evenload.dashboard.record_tables import Grid

LOSS, MAX_VIO, IDLE, UTIL = GRID_METRICS


def _trace(chart: go.Figure, index: int = 0) -> Any:
    return chart.data[index]


def _grid(values: list[list[float]], notes: list[list[str]] | None = None) -> Grid:
    value_RC = np.array(values, np.float32)
    blank = [["" for _ in row] for row in values]
    settings = [f"sign {10.0**-row:g}" for row in range(len(values))]
    return Grid(settings, [8 * 2**c for c in range(len(values[0]))], value_RC, notes or blank)


def test_grid_shows_its_numbers_and_why_a_cell_has_none() -> None:
    chart = sweep_grid(_grid([[0.25, 0.5], [1.0, np.nan]], [["", ""], ["", "failed"]]), MAX_VIO)
    heatmap = _trace(chart)
    assert [list(row) for row in heatmap.text] == [["0.25", "0.50"], ["1.00", "failed"]]
    assert list(heatmap.x) == ["8", "16"]
    assert list(heatmap.y) == ["sign 1", "sign 0.1"]
    assert "times the fair share" in heatmap.hovertemplate


def test_expert_counts_are_categories_and_not_distances() -> None:
    assert sweep_grid(_grid([[1.0, 2.0, 3.0]]), MAX_VIO).layout.xaxis.type == "category"


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        (MAX_VIO, [[0.1, 0.2]], (0.0, 1.0)),
        (MAX_VIO, [[0.1, 4.0]], (0.0, 4.0)),
        (LOSS, [[2.30, 2.31]], (2.30, 2.35)),
        (LOSS, [[2.30, 3.00]], (2.30, 3.00)),
        (UTIL, [[90.0, 80.0]], (50.0, 100.0)),
        (UTIL, [[90.0, 20.0]], (20.0, 100.0)),
        (IDLE, [[np.nan, np.nan]], (0.0, 5.0)),
        (LOSS, [[np.nan, np.nan]], (0.0, 0.05)),
    ],
)
def test_colours_span_at_least_a_difference_that_matters(
    metric: Metric, values: list[list[float]], expected: tuple[float, float]
) -> None:
    heatmap = _trace(sweep_grid(_grid(values), metric))
    assert (heatmap.zmin, heatmap.zmax) == pytest.approx(expected)


def test_good_cells_have_the_light_colour_in_both_directions() -> None:
    low = _trace(sweep_grid(_grid([[1.0]]), MAX_VIO)).colorscale
    high = _trace(sweep_grid(_grid([[1.0]]), UTIL)).colorscale
    assert low[0][1] == high[-1][1] == LIGHT.good
