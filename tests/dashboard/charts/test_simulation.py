from __future__ import annotations

import numpy as np

from evenload.dashboard.charts.simulation import (
    dual_descent,
    pooled,
    regret_growth,
    simulated_max_vio,
    tie_spectrum,
)
from evenload.dashboard.charts.style import says
from evenload.dashboard.theory.tables import RegretCurve


def _curve(regret: list[float], law: str = "log N") -> RegretCurve:
    step_P = np.arange(1, len(regret) + 1, dtype=np.int32)
    regret_P = np.array(regret)
    return RegretCurve(step_P, regret_P, np.diff(regret_P, prepend=0), regret_P + 0.1, law)


def test_pooling_keeps_the_spike() -> None:
    value_N = np.full(10_000, 0.1, np.float32)
    value_N[7777] = 9.0
    step_P, pooled_P = pooled(value_N)
    assert len(step_P) <= 400
    assert pooled_P.max() == 9.0
    assert step_P[pooled_P.argmax()] <= 7778 < step_P[pooled_P.argmax() + 1]


def test_max_vio_stands_beside_its_floor() -> None:
    chart = simulated_max_vio({"none": np.full(50, 5.0, np.float32)}, 0.177)
    assert [trace.name for trace in chart.data] == ["none", "sampling floor 0.18"]
    assert list(chart.data[1].y) == [0.177, 0.177]
    assert "none 5.00" in says(chart)


def test_powers_are_straight_lines_unless_a_rule_beats_the_best_bias() -> None:
    assert regret_growth({"none": _curve([1.0, 2.0, 3.0])}).layout.yaxis.type == "log"
    mixed = regret_growth({"none": _curve([1.0, 2.0]), "self_tuned": _curve([0.1, -0.2])})
    assert mixed.layout.yaxis.type is None
    assert list(mixed.data[2].y) == [0.1, -0.2]
    assert [trace.name for trace in mixed.data[1::2]] == ["none: log N", "self_tuned: log N"]


def test_descent_is_a_running_mean_and_leaves_out_what_a_logarithm_cannot_show() -> None:
    (line,) = dual_descent({"sign": _curve([4.0, 6.0, 6.0, -60.0])}).data
    np.testing.assert_allclose(line.y, [4.0, 3.0, 2.0, np.nan])


def test_spectrum_names_convexity_and_the_stable_step() -> None:
    chart = tie_spectrum(np.array([0.0, 0.5, 1.0, 4.0]))
    assert list(chart.data[0].y) == [0.5, 1.0, 4.0]
    assert chart.layout.annotations[0].text == "μ = 0.5"
    assert "limits the step to 0.5" in says(chart)
