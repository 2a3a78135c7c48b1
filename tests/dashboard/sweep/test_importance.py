from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from evenload.dashboard.sweep.importance import (
    ABSENT,
    Parameter,
    _groups,
    importance,
    shares,
    varying,
)


def explained(value_T: Any, groups: list[Any]) -> float:
    (share,) = shares(value_T, [groups])
    return share


def test_parameter_that_determines_the_figure_explains_all_of_it() -> None:
    assert explained(np.array([1.0, 1.0, 5.0, 5.0]), ["a", "a", "b", "b"]) == pytest.approx(1)


def test_chance_explains_nothing_on_average() -> None:
    rng = np.random.default_rng(0)
    found = [explained(rng.normal(size=30), rng.integers(0, 10, 30).tolist()) for _ in range(300)]
    assert np.mean(found) < 0.12  # plain eta squared, not corrected for chance, would be 0.31


def test_shares_of_a_full_grid_are_its_main_effects() -> None:
    """Two factors with variances 4 and 1 and no interaction explain 80 % and 20 %."""
    a, b = np.repeat([-2.0, 2.0], 50), np.tile([-1.0, 1.0], 50)
    assert shares(a + b, [a.tolist(), b.tolist()]) == pytest.approx([0.8, 0.2], abs=0.01)


def test_parameters_that_go_together_divide_what_they_explain() -> None:
    """Each alone explains everything; side by side they would add up to 200 %."""
    rule = np.repeat([0.0, 1.0], 20)
    value = rule + 0.001 * np.random.default_rng(0).normal(size=40)
    found = shares(value, [rule.tolist(), (3 * rule).tolist()])
    assert found == pytest.approx([0.5, 0.5], abs=0.001)


def test_shares_add_up_to_at_most_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        groups = [rng.integers(0, 3, 30).tolist() for _ in range(4)]
        value = rng.normal(size=30) + np.array(groups[0]) + np.array(groups[1])
        found = shares(value, groups)
        assert min(found) >= 0
        assert sum(found) <= 1 + 1e-9


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
