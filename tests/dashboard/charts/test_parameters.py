from __future__ import annotations

import math

import numpy as np

from evenload.dashboard.charts.parameters import (
    importance_bars,
    number_axis,
    parallel_coordinates,
    parameter_axis,
)
from evenload.dashboard.charts.style import says
from evenload.dashboard.sweep.importance import ABSENT, Parameter


def test_levels_are_spread_evenly_numbers_ascending_and_the_absent_below() -> None:
    axis = parameter_axis(Parameter("balancer.step_size", [0.01, ABSENT, 0.001, 0.1]))
    assert axis.place_T.tolist() == [2 / 3, 0, 1 / 3, 1]
    assert [text for _, text in axis.ticks] == [ABSENT, "0.001", "0.01", "0.1"]


def test_numbers_that_span_far_lie_on_a_logarithm() -> None:
    near, far = number_axis("loss", np.array([2.0, 3.0, 4.0])), np.array([0.01, 0.1, 1.0, math.nan])
    assert near.place_T.tolist() == [0, 0.5, 1]
    axis = number_axis("MaxVio", far)
    np.testing.assert_allclose(axis.place_T, [0, 0.5, 1, math.nan])
    assert [text for _, text in axis.ticks] == ["0.01", "0.1", "1"]


def test_one_value_and_none_at_all_have_an_axis() -> None:
    assert number_axis("x", np.array([2.0, 2.0])).place_T.tolist() == [0, 0]
    assert number_axis("x", np.array([math.nan])).ticks == []


def test_every_trial_is_one_line_of_its_group_and_the_cut_short_are_faded() -> None:
    axes = [
        number_axis("a", np.array([0.0, 1.0, 2.0])),
        number_axis("b", np.array([1.0, 2.0, 3.0])),
    ]
    chart = parallel_coordinates(
        axes, ["none", "sign", "sign"], ["one", "two", "three"], [False, False, True]
    )
    assert [(t.name, t.opacity, t.showlegend) for t in chart.data] == [
        ("none", 0.8, True),
        ("sign", 0.8, True),
        ("sign", 0.35, False),
    ]
    np.testing.assert_allclose(chart.data[2].y, [1, 1, math.nan])
    assert chart.data[2].text == ("three",) * 3
    assert says(chart) == "Parallel coordinates of 3 trials over a, b."


def test_bars_stand_by_importance_and_leave_out_what_is_not_known() -> None:
    chart = importance_bars(
        {"max_vio": {"seed": 0.01, "rule": 0.9, "top k": math.nan}}, {"max_vio": "MaxVio"}
    )
    assert list(chart.data[0].y) == ["rule", "seed", "top k"]
    np.testing.assert_allclose(chart.data[0].x, [90, 1, math.nan])
    assert says(chart) == "Importance of parameters. MaxVio: rule explains 90 %."
