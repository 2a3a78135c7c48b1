"""Heat maps of loads, differences and pairs: values and colours of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evenload.pipeline.charts import loads, maps, specialisation
from evenload.pipeline.charts.style import (
    BEYOND,
    EXTREME,
    FAIR,
    IDLE,
    Chart,
    description,
    document,
    tables,
)


def _rows(chart: Chart) -> list[tuple[Any, ...]]:
    """Column, row and value of each cell."""
    (table,) = tables(chart)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _colour(chart: Chart) -> dict[str, Any]:
    colour: dict[str, Any] = document(chart)["layer"][0]["encoding"]["color"]
    return colour


def test_cells_have_the_loads_and_uncounted_ones_are_blank() -> None:
    chart = loads.load_by_layer(np.array([[0, 1, -1], [100, 350, 90]], np.int16), ["1", "2"])
    assert _rows(chart) == [
        *((0, "1", 0), (1, "1", 1)),
        *((0, "2", 100), (1, "2", 350), (2, "2", 90)),
    ]
    assert "to 350 % of the fair share (expert 1 of layer 2); 20.0 % of" in description(chart)


def test_idle_and_overfull_cells_have_colours_of_the_legend() -> None:
    spec = document(loads.load_by_layer(np.array([[0, 300]], np.int16), ["1"]))
    cells, key = (layer["encoding"]["color"] for layer in spec["layer"])
    value = "datum['load, % of the fair share']"
    assert cells["condition"] == [
        {"test": f"{value} == 0", "value": IDLE},
        {"test": f"{value} > 200 && {value} <= 500", "value": BEYOND},
        {"test": f"{value} > 500", "value": EXTREME},
    ]
    looks = dict(zip(key["scale"]["domain"], key["scale"]["range"], strict=True))
    assert looks == {"idle": IDLE, "200 to 500 %": BEYOND, "more than 500 %": EXTREME}
    assert {test["value"] for test in cells["condition"]} == {*looks.values()}
    assert cells["scale"]["domain"][2] == 100
    assert cells["scale"]["range"][2] == FAIR


def test_experts_can_be_sorted_busiest_first_in_each_layer() -> None:
    percent_LE = np.array([[10, 300, 90], [100, 0, 200]], np.int16)
    chart = loads.load_by_layer(percent_LE, ["1", "2"], is_sorted=True)
    assert [value for *_, value in _rows(chart)] == [300, 90, 10, 200, 100, 0]


def test_columns_are_time_and_rows_are_experts() -> None:
    percent_BE = np.array([[100, 50], [200, 0], [30, 170]], np.int16)
    chart = loads.load_over_time(percent_BE, np.array([1, 11, 21], np.int32))
    assert _rows(chart)[:4] == [(1, 0, 100), (11, 0, 200), (21, 0, 30), (1, 1, 50)]


def test_large_maps_are_pooled_and_keep_their_peak() -> None:
    percent_BE = np.full((400, 256), 100, np.int16)
    percent_BE[217, 31] = 9_000
    chart = loads.load_over_time(percent_BE, np.arange(1, 401, dtype=np.int32))
    (table,) = tables(chart)
    assert len(table) <= maps.MAX_CELLS
    assert table.column_names[0] == "optimizer step (6 bins per cell)"
    assert (217, 31, 9_000) in _rows(chart)
    assert "(expert 31)" in description(chart)


def test_pooled_mean_is_zero_only_if_all_values_are() -> None:
    value_YX = np.array([[0, 0, 0, 1, 200, 100, -1]], np.int16)
    assert maps.pooled(value_YX, 1, 2).tolist() == [[0, 1, 200, -1]]
    assert maps.pooled(value_YX, 1, 2, is_mean=True).tolist() == [[0, 1, 150, -1]]


@pytest.mark.parametrize("layers", [2, 26])
def test_maps_by_depth_and_rank_have_the_same_axes_for_all_sizes(layers: int) -> None:
    chart = loads.load_by_rank_and_depth(np.full((layers, 64), 100, np.int16), "a run")
    shares = [share for share, *_ in _rows(chart)]
    assert (min(shares), max(shares)) == (0.8, 99.2)
    assert len(_rows(chart)) == layers * 64
    domains = [document(chart)["layer"][0]["encoding"][side]["scale"]["domain"] for side in "xy"]
    assert [set(domain) for domain in domains] == [set(shares), {row for _, row, _ in _rows(chart)}]


def test_zero_difference_is_neutral_and_negative_ones_are_drawn() -> None:
    chart = loads.load_difference(np.array([[-50, 0, 150]], np.int16), "a", "b")
    assert [value for *_, value in _rows(chart)] == [-50, 0, 150]
    scale = _colour(chart)["scale"]
    assert dict(zip(scale["domain"], scale["range"], strict=True))[0] == FAIR
    assert "from -50 to +150" in description(chart)


def test_chance_is_neutral_and_unknown_pairs_are_blank() -> None:
    chart = specialisation.lift_map(np.array([[-1, 100], [250, -1]], np.int16), "expert", "expert")
    assert _rows(chart) == [(1, 0, 100), (0, 1, 250)]
    scale = _colour(chart)["scale"]
    assert dict(zip(scale["domain"], scale["range"], strict=True))[100] == FAIR
    assert "2.5 times as often" in description(chart)


def test_rows_are_groups_with_shortened_names() -> None:
    percent_GE = np.array([[100, 250], [0, 90]], np.int16)
    chart = specialisation.load_by_group(percent_GE, ["prose", "c" * 40])
    assert {len(name) for _, name, _ in _rows(chart)} == {5, 24}
    assert "250 % of the fair share, on prose" in description(chart)


def test_experts_that_were_never_idle_are_blank() -> None:
    chart = loads.longest_idle_streaks(np.array([[0, 7], [3, 0]], np.int32), ["1", "2"])
    assert _rows(chart) == [(1, "1", 7), (0, "2", 3)]
    assert "at most 7 steps, of expert 1 in layer 1" in description(chart)
