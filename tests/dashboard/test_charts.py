from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from dashboard import charts
from dashboard.frames import Grid

LIMIT_BYTES = 300_000
LOSS, MAX_VIO, IDLE, UTIL = charts.GRID_METRICS


def _trace(chart: go.Figure, index: int = 0) -> Any:
    return chart.data[index]


def _grid(values: list[list[float]], notes: list[list[str]] | None = None) -> Grid:
    value_RC = np.array(values, np.float32)
    blank = [["" for _ in row] for row in values]
    settings = [f"sign {10.0**-row:g}" for row in range(len(values))]
    return Grid(settings, [8 * 2**c for c in range(len(values[0]))], value_RC, notes or blank)


def test_grid_shows_its_numbers_and_why_a_cell_has_none() -> None:
    chart = charts.sweep_grid(
        _grid([[0.25, 0.5], [1.0, np.nan]], [["", ""], ["", "failed"]]), MAX_VIO
    )
    heatmap = _trace(chart)
    assert [list(row) for row in heatmap.text] == [["0.25", "0.50"], ["1.00", "failed"]]
    assert list(heatmap.x) == ["8", "16"]
    assert list(heatmap.y) == ["sign 1", "sign 0.1"]
    assert "times the fair share" in heatmap.hovertemplate


def test_expert_counts_are_categories_and_not_distances() -> None:
    assert charts.sweep_grid(_grid([[1.0, 2.0, 3.0]]), MAX_VIO).layout.xaxis.type == "category"


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
    metric: charts.Metric, values: list[list[float]], expected: tuple[float, float]
) -> None:
    heatmap = _trace(charts.sweep_grid(_grid(values), metric))
    assert (heatmap.zmin, heatmap.zmax) == pytest.approx(expected)


def test_good_cells_have_the_light_colour_in_both_directions() -> None:
    low = _trace(charts.sweep_grid(_grid([[1.0]]), MAX_VIO)).colorscale
    high = _trace(charts.sweep_grid(_grid([[1.0]]), UTIL)).colorscale
    assert low[0][1] == high[-1][1] == "#e6f2ee"


def _colour_at(scale: Any, position: float) -> str:
    """The colour of the stop at or below a position; stops of LOAD_SCALE are exact where asked."""
    return next(colour for at, colour in reversed(list(scale)) if at <= position)


def test_load_colours_are_centred_at_the_fair_share_with_idle_apart() -> None:
    percent_LE = np.array([[0, 1, 100, 350]], np.int16)
    heatmap = _trace(charts.load_by_layer(percent_LE, ["1"]))
    assert (heatmap.zmin, heatmap.zmax) == (0, 200)
    assert _colour_at(heatmap.colorscale, 100 / 200) == charts.FAIR
    assert _colour_at(heatmap.colorscale, 0) == charts.IDLE
    assert _colour_at(heatmap.colorscale, 1 / 200) == charts.BELOW_FAIR[0]
    assert "2× and more" in heatmap.colorbar.ticktext
    np.testing.assert_array_equal(heatmap.z, percent_LE)


def test_experts_can_be_sorted_busiest_first_in_each_layer() -> None:
    percent_LE = np.array([[10, 300, 90], [100, 0, 200]], np.int16)
    heatmap = _trace(charts.load_by_layer(percent_LE, ["1", "2"], is_sorted=True))
    assert np.asarray(heatmap.z).tolist() == [[300, 90, 10], [200, 100, 0]]
    assert list(heatmap.y) == ["1", "2"]


def test_time_runs_across_and_experts_down() -> None:
    percent_BE = np.array([[100, 50], [200, 0], [30, 170]], np.int16)
    heatmap = _trace(charts.load_over_time(percent_BE, np.array([1, 11, 21], np.int32)))
    assert np.asarray(heatmap.z).tolist() == [[100, 200, 30], [50, 0, 170]]
    assert list(heatmap.x) == [1, 11, 21]


def test_uncounted_cells_are_blank_and_not_idle() -> None:
    heatmap = _trace(charts.load_by_layer(np.array([[-1, 0]], np.int16), ["1"]))
    assert np.isnan(heatmap.z[0, 0])
    assert heatmap.z[0, 1] == 0


def test_max_vio_stands_beside_its_floor() -> None:
    vio_BL = np.array([[0.5, 0.25], [0.4, 0.2]], np.float32)
    chart = charts.max_vio_over_time(vio_BL, np.array([1, 2], np.int32), ["1", "2"], 0.125)
    assert [trace.name for trace in chart.data] == ["layer 1", "layer 2", "sampling floor 0.12"]
    np.testing.assert_array_equal(_trace(chart, 1).y, vio_BL[:, 1])
    assert list(_trace(chart, 2).y) == [0.125, 0.125]


def test_idle_experts_are_percent_beside_chance() -> None:
    idle_BL = np.array([[0.0625], [0.0]], np.float32)
    chart = charts.idle_over_time(idle_BL, np.array([1, 2], np.int32), ["1"], 0.02)
    assert list(_trace(chart).y) == [6.25, 0.0]
    assert _trace(chart, 1).name == "by chance 2.00 %"
    nearly_none = charts.idle_over_time(idle_BL, np.array([1, 2], np.int32), ["1"], 1e-30)
    assert _trace(nearly_none, 1).name == "by chance none"


def test_bias_paths_are_coloured_by_where_they_end() -> None:
    bias_BE = np.array([[0, 0, 0], [1, -1, 0.5]], np.float32)
    chart = charts.bias_paths(bias_BE, np.array([1, 2], np.int32))
    assert [trace.name for trace in chart.data] == ["expert 1", "expert 2", "expert 0"]
    assert list(_trace(chart, 2).y) == [0, 1]


def test_of_many_experts_the_extremes_are_among_the_drawn() -> None:
    bias_BE = np.arange(500, dtype=np.float32)[None].repeat(3, axis=0)
    chart = charts.bias_paths(bias_BE, np.arange(1, 4, dtype=np.int32))
    names = [trace.name for trace in chart.data]
    assert len(names) == charts.MAX_LINES
    assert (names[0], names[-1]) == ("expert 0", "expert 499")


def test_loss_shows_the_largest_value_of_each_bin_where_bins_hold_steps() -> None:
    step_B = np.array([1, 11], np.int32)
    loss_B, spike_B = np.array([2.0, 1.0], np.float32), np.array([2.5, 9.0], np.float32)
    binned = charts.loss_curve(loss_B, spike_B, step_B)
    assert [trace.name for trace in binned.data] == ["largest in bin", "training loss"]
    assert list(_trace(binned).y) == [2.5, 9.0]
    assert len(charts.loss_curve(loss_B, loss_B, step_B).data) == 1


def test_lines_stand_at_their_steps_even_and_uneven() -> None:
    rate_B = np.array([1.0, 2.0, 3.0], np.float32)
    even = _trace(charts.throughput_curve(rate_B, np.array([1, 11, 21], np.int32)))
    assert (even.x0, even.dx, even.x) == (1, 10, None)
    uneven = _trace(charts.throughput_curve(rate_B, np.array([1, 11, 41], np.int32)))
    assert list(uneven.x) == [1, 11, 41]


def test_axes_carry_units() -> None:
    step_B, line_B = np.array([1, 2], np.int32), np.array([1.0, 2.0], np.float32)
    assert "tokens per second" in charts.throughput_curve(line_B, step_B).layout.yaxis.title.text
    assert "nats" in charts.loss_curve(line_B, line_B, step_B).layout.yaxis.title.text


_STEPS = np.arange(1, 100_000, 250, dtype=np.int32)
_NOISE = np.random.default_rng(0)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.load_over_time(
            _NOISE.integers(0, 32_000, (390, 256), dtype=np.int16), _STEPS[:390]
        ),
        lambda: charts.load_over_time(
            _NOISE.integers(0, 32_000, (400, 64), dtype=np.int16), _STEPS
        ),
        lambda: charts.load_by_layer(
            _NOISE.integers(0, 300, (58, 256), dtype=np.int16), [str(n) for n in range(58)]
        ),
        lambda: charts.bias_paths(_NOISE.random((400, 256), dtype=np.float32), _STEPS),
        lambda: charts.max_vio_over_time(
            _NOISE.random((400, 58), dtype=np.float32), _STEPS, [str(n) for n in range(58)], 0.1
        ),
        lambda: charts.sweep_grid(_grid(_NOISE.random((60, 8)).tolist()), MAX_VIO),
    ],
)
def test_charts_of_large_runs_stay_below_300_kilobytes(draw: Callable[[], go.Figure]) -> None:
    assert len(draw().to_json()) < LIMIT_BYTES


def test_maps_travel_as_16_bit_numbers() -> None:
    percent_BE = np.full((400, 64), 100, np.int16)
    sent = json.loads(charts.load_over_time(percent_BE, _STEPS).to_json())
    assert sent["data"][0]["z"]["dtype"] == "i2"


def test_empty_histories_can_be_drawn() -> None:
    none_B = np.zeros(0, np.int32)
    assert len(charts.max_vio_over_time(np.zeros((0, 1), np.float32), none_B, ["1"], 0.1).data) == 1
    assert len(charts.bias_paths(np.zeros((0, 4), np.float32), none_B).data) == 4


def test_charts_do_not_know_streamlit() -> None:
    tree = ast.parse(Path(str(charts.__file__)).read_text(encoding="utf-8"))
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert not [name for name in modules | names if name and name.startswith("streamlit")]
