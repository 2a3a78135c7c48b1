from __future__ import annotations

import math

import numpy as np
import pytest

from evenload.pipeline.figures.evaluation import lift, specialisation


@pytest.mark.parametrize(
    ("count_GE", "value"),
    [
        ([[10, 20], [1, 2]], 0.0),
        ([[5, 0, 0], [0, 1, 1]], 1.0),
        ([[1, 0], [1, 1]], (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(2) - 0.5),
    ],
)
def test_specialisation_is_the_groups_divergence_over_its_largest_value(
    count_GE: list[list[int]], value: float
) -> None:
    assert specialisation(np.array(count_GE)) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("count_GE", [[[1, 2]], [[1, 2], [0, 0]]])
def test_specialisation_is_nan_if_groups_cannot_be_compared(count_GE: list[list[int]]) -> None:
    assert math.isnan(specialisation(np.array(count_GE)))


def test_specialisation_by_chance_is_as_documented() -> None:
    rng = np.random.default_rng(0)
    G, E, A = 8, 16, 8 * 2000
    drawn = [specialisation(rng.multinomial(A // G, np.full(E, 1 / E), size=G)) for _ in range(200)]
    assert np.mean(drawn) == pytest.approx((G - 1) * (E - 1) / (2 * A * math.log(G)), rel=0.05)


def test_lift_is_one_for_independent_choices_and_unknown_for_an_idle_expert() -> None:
    together_EE = np.array([[40, 10, 0], [10, 25, 0], [0, 0, 0]])
    lift_EE = lift(together_EE, tokens=100)
    assert lift_EE[0, 1] == lift_EE[1, 0] == 1.0
    assert np.isnan(lift_EE[2]).all()
    assert lift(np.array([[40, 40], [40, 40]]), tokens=100)[0, 1] == 2.5
