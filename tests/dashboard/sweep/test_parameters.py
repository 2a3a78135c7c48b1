from __future__ import annotations

from typing import Any

from evenload.dashboard.sweep.parameters import varying


def test_parameters_of_a_single_rule_are_left_out(demo_home: Any) -> None:
    names = [parameter.name for parameter in varying(demo_home.trials("searched"))]
    assert names == ["num experts", "rule", "seed", "step size"]
