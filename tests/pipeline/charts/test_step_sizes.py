from __future__ import annotations

import math
from typing import Any

import pytest

from evenload.pipeline.charts.step_sizes import STEP, step_chart
from evenload.pipeline.charts.style import Chart, description, document, tables
from evenload.pipeline.figures.step_curves import (
    FIGURES,
    StepCurve,
    StepPoint,
    advised_sign_steps,
)

FEW = StepCurve(
    "sign",
    "16 experts",
    (
        StepPoint(0.001, 3.0, 2.0, 4.0, 5),
        StepPoint(0.01, 1.5, 1.4, 1.6, 5, "named"),
        StepPoint(0.1, 1.6, 1.5, 1.7, 5, "tied in evenness"),
    ),
)
MANY = StepCurve("sign", "32 experts", (StepPoint(0.01, 40.0, math.nan, math.nan, 1),))
OVER_FLOOR = FIGURES["over_floor"]


def drawn(chart: Chart) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = document(chart)["layer"]
    return layers


def test_step_sizes_and_a_wide_figure_have_logarithmic_axes() -> None:
    line = drawn(step_chart([FEW, MANY], OVER_FLOOR))[-2]
    assert line["encoding"]["x"]["scale"]["type"] == "log"
    assert line["encoding"]["y"]["scale"]["type"] == "log"
    loss = drawn(step_chart([FEW, MANY], FIGURES["loss"]))[-2]
    assert "type" not in loss["encoding"]["y"]["scale"]


def test_the_winner_is_a_diamond_and_its_ties_are_squares() -> None:
    dots = drawn(step_chart([FEW, MANY], OVER_FLOOR))[-1]
    shapes = dots["encoding"]["shape"]["scale"]
    assert dict(zip(shapes["domain"], shapes["range"], strict=True)) == {
        "other": "circle",
        "tied in evenness": "square",
        "most even so far": "diamond",
        "named": "diamond",
    }


def test_a_point_with_one_seed_has_no_band() -> None:
    table = tables(step_chart([MANY], OVER_FLOOR))[-1].to_pylist()
    assert [(row["low"], row["high"]) for row in table] == [(40, 40)]


def test_the_advised_range_is_drawn_for_the_places_that_are_shown() -> None:
    chart = step_chart([FEW], OVER_FLOOR, {"16 experts": (0.002, 0.02), "64 experts": (1, 2)})
    advised = next(table for table in tables(chart) if "to" in table.column_names)
    assert advised["at"].to_pylist() == ["16 experts"]
    assert advised["to"].to_pylist() == [pytest.approx(0.02)]
    assert "theory advises 0.002 to 0.02" in description(chart)


def test_the_floor_is_drawn_where_the_figure_has_one() -> None:
    rules = [layer["mark"]["type"] for layer in drawn(step_chart([FEW], OVER_FLOOR))]
    assert rules.count("rule") == 1
    assert "rule" not in [l["mark"]["type"] for l in drawn(step_chart([FEW], FIGURES["idle"]))]  # noqa: E741


def test_the_description_names_lowest_winner_and_ties() -> None:
    text = description(step_chart([FEW], OVER_FLOOR))
    assert "16 experts: lowest 1.5 at 0.01 (0.01 named, 0.1 tied in evenness)" in text
    assert STEP in text


def test_advice_spans_the_step_that_arrives_and_the_steadiest_one() -> None:
    assert advised_sign_steps(0.2, 0.001, 200) == pytest.approx((0.001 * math.pi / 2, 0.004))
    assert advised_sign_steps(0.2, math.nan, 200) == pytest.approx((0.004, 0.004))
