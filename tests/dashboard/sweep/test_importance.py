from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from evenload.dashboard.sweep.importance import (
    ABSENT,
    Parameter,
    _groups,
    explained,
    importance,
    varying,
)


def test_parameter_that_determines_the_figure_explains_all_of_it() -> None:
    assert explained(np.array([1.0, 1.0, 5.0, 5.0]), ["a", "a", "b", "b"]) == pytest.approx(1)


def test_chance_explains_nothing_on_average() -> None:
    rng = np.random.default_rng(0)
    shares = [explained(rng.normal(size=30), rng.integers(0, 10, 30).tolist()) for _ in range(300)]
    assert np.mean(shares) < 0.12  # plain eta squared, not corrected for chance, would be 0.31


def test_shares_of_a_full_grid_are_its_main_effects() -> None:
    """Two factors with variances 4 and 1 and no interaction explain 80 % and 20 %."""
    a, b = np.repeat([-2.0, 2.0], 50), np.tile([-1.0, 1.0], 50)
    assert explained(a + b, a.tolist()) == pytest.approx(0.8, abs=0.01)
    assert explained(a + b, b.tolist()) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("values", "groups"),
    [([], []), ([1.0], ["a"]), ([1.0, 2.0], ["a", "b"]), ([1.0, 1.0, 1.0], ["a", "a", "b"])],
)
def test_too_few_values_explain_nothing(values: list[float], groups: list[str]) -> None:
    assert math.isnan(explained(np.array(values), groups))


def test_many_numeric_levels_are_grouped_into_quarters() -> None:
    groups = _groups(Parameter("balancer.step_size", [ABSENT, *np.linspace(0, 1, 12).tolist()]))
    assert groups[0] == ABSENT
    assert [groups.count(quarter) for quarter in range(4)] == [3, 3, 3, 3]


def test_parameters_of_a_single_rule_are_left_out(demo_home: Any) -> None:
    names = [parameter.name for parameter in varying(demo_home.trials("searched"))]
    assert names == ["num experts", "rule", "seed", "step size"]


def test_rule_matters_most_in_a_search(demo_home: Any) -> None:
    trials = demo_home.trials("searched")
    shares = importance(trials, varying(trials), "max_vio")
    assert max(shares, key=lambda name: shares[name]) == "rule"
    assert shares["rule"] > 0.7
    assert shares["seed"] < 0.05
