from __future__ import annotations

import math
from typing import Any

import altair as alt
import pytest

from evenload.pipeline.charts.front import (
    BITS,
    VIO,
    Pair,
    Point,
    pareto_front,
    tune_against_confirm,
)
from evenload.pipeline.charts.style import Chart, description, document, tables

POINTS = [
    Point("sign 0.01", "recommended", 0.2, 2.30, 0.05, 0.01, on_front=True),
    Point("aux_loss 0.01", "settings", 0.4, 2.29, math.nan, 0.01, on_front=True),
    Point("sign 0.1", "settings", 0.9, 2.35),
    Point("none", "controls", 9.0, 2.40, is_yardstick=True),
]


def _points(chart: Chart) -> dict[str, list[Any]]:
    table = next(table for table in tables(chart) if "setting" in table.column_names)
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns


def _x(chart: Chart) -> dict[str, Any]:
    scale: dict[str, Any] = document(chart)["layer"][0]["encoding"]["x"]["scale"]
    return scale


def test_line_of_the_front_ends_at_the_worst_values() -> None:
    chart = pareto_front(POINTS)
    front = chart.layer[0].data.values
    assert [corner[VIO] for corner in front] == pytest.approx([0.2, 0.2, 0.4, 9.0])
    assert [corner[BITS] for corner in front] == pytest.approx([2.40, 2.30, 2.29, 2.29])


def test_points_of_several_seeds_have_intervals() -> None:
    columns = _points(pareto_front(POINTS))
    for name, ends in {"left": [0.15, 0.4], "right": [0.25, 0.4], "high": [2.31, 2.30]}.items():
        assert columns[name][:2] == pytest.approx(ends)


def test_yardstick_far_away_is_named_below_the_axis() -> None:
    chart = pareto_front(POINTS)
    low, high = _x(chart)["domain"]
    assert 0 < low < 0.2
    assert 0.9 < high < 1.1
    assert _points(chart)[VIO][3] == 9
    title = document(chart)["layer"][0]["encoding"]["x"]["title"]
    assert title == [VIO, "outside of the chart: none (9, 2.400)"]
    assert document(pareto_front(POINTS[:3]))["layer"][0]["encoding"]["x"]["title"] == [VIO]


def test_wide_range_has_a_logarithmic_axis() -> None:
    chart = pareto_front([*POINTS[:3], Point("sign 0.3", "settings", 4.0, 2.4)])
    assert _x(chart)["type"] == "log"
    assert _x(chart)["domain"][1] > 4


def test_confirmed_setting_is_named_only_once() -> None:
    searched = [point._replace(role="search") for point in POINTS]
    chart = pareto_front([*searched, Point("sign 0.01", "fresh seeds", 0.25, 2.31)])
    beside = _points(chart)["beside"]
    assert beside[:2] == ["", "aux_loss 0.01"]
    assert beside[-1] == "sign 0.01"


def test_of_many_settings_only_the_front_is_named() -> None:
    many = [Point(f"s{n}", "settings", 0.1 + n, 2.3, on_front=n == 3) for n in range(40)]
    assert [text for text in _points(pareto_front(many))["beside"] if text] == ["s3"]
    assert _points(pareto_front([POINTS[0]._replace(mark="7")]))["beside"] == ["7"]


def test_floor_is_a_dashed_line() -> None:
    layers = [layer.data for layer in pareto_front(POINTS, 0.5).layer]
    assert [{VIO: 0.5}] in [data.values for data in layers if isinstance(data, alt.InlineData)]


def test_exports_have_one_row_per_setting_with_its_name() -> None:
    (table,) = tables(pareto_front(POINTS, 0.5))
    assert table["setting"].to_pylist() == [point.label for point in POINTS]


def test_description_has_front_and_recommendation() -> None:
    text = description(pareto_front(POINTS))
    assert "of 4 settings. On the front: sign 0.01 (loss 2.300, MaxVio 0.20), aux" in text
    assert text.endswith("Recommended: sign 0.01.")
    assert description(pareto_front([])).endswith("No setting is complete yet.")


def test_search_and_fresh_seeds_are_side_by_side() -> None:
    chart = tune_against_confirm([Pair("sign 0.01", 2.30, math.nan, 2.31, 0.02, 3)], "loss")
    (table,) = tables(chart)
    rows = {row["stage"]: row for row in table.to_pylist()}
    assert rows["search"]["low"] == rows["search"]["high"] == pytest.approx(2.30)
    assert rows["fresh seeds"]["high"] == pytest.approx(2.33)
    assert rows["fresh seeds"]["seeds"] == 3
    assert description(chart).endswith("sign 0.01: 2.300, then 2.310.")


def test_texts_that_would_lie_over_each_other_are_left_out() -> None:
    close = [Point(f"s{i}", "settings", 0.2 + 0.001 * i, 2.3) for i in range(3)]
    rule = Point("best", "recommended", 0.201, 2.3)
    even = Point("expert_choice", "controls", 0.0, 2.3, is_yardstick=True)
    chart = pareto_front([*close, rule, Point("far", "settings", 4.0, 2.9), even])
    assert [text for text in _points(chart)["beside"] if text] == ["best", "far", "expert_choice"]
