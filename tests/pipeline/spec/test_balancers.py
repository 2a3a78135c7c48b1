from __future__ import annotations

from typing import Any

import pytest

from evenload.pipeline.spec.balancers import BALANCERS, parse_balancer


@pytest.mark.parametrize("kind", BALANCERS)
def test_every_rule_is_valid_with_its_defaults(kind: str) -> None:
    spec = parse_balancer({"kind": kind})
    assert spec.params == {name: default for name, (_, default) in spec.rule.params.items()}
    assert spec.label.split()[0] == kind
    assert parse_balancer(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("value", "label", "step"),
    [
        ({"kind": "sign", "step_size": 0.02}, "sign 0.02", 0.02),
        ({"kind": "sign", "schedule": "inverse"}, "sign 0.001 schedule=inverse", 1e-3),
        ({"kind": "aux_loss", "scope": "global"}, "aux_loss 0.01 scope=global", 1e-2),
        ({"kind": "quantile", "memory": 0.5}, "quantile memory=0.5", None),
        ({"kind": "self_tuned"}, "self_tuned", None),
    ],
)
def test_label_and_step_tell_settings_apart(
    value: dict[str, Any], label: str, step: float | None
) -> None:
    spec = parse_balancer(value)
    assert spec.label == label
    assert spec.step == step


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "signs"}, "kind='signs' is not a balancing rule; choose one of none, aux_loss"),
        ({"kind": ["sign"]}, r"kind=\['sign'\] is not a balancing rule"),
        ({"kind": {"a": "b"}}, "kind={'a': 'b'} is not a balancing rule"),
        ("sign", "kind='sign' is not a balancing rule"),
        ({"kind": "sign", "step": 1}, "step=1: unknown key"),
        ({"kind": "sign", "step_size": -1}, "step_size=-1"),
        ({"kind": "quantile", "memory": 1.0}, "memory=1"),
        ({"kind": "self_tuned", "step_size": 1}, "step_size=1: unknown key"),
        ({"kind": "sign", "target": [0.5, 0.4]}, "the shares must sum to 1"),
        ({"kind": "expert_choice", "target": [0.5, 0.5]}, "takes no target"),
    ],
)
def test_bad_settings_name_value_and_remedy(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_balancer(value)


def test_only_rules_that_can_be_compared_are_ranked() -> None:
    never_ranked = {kind for kind, rule in BALANCERS.items() if rule.control or rule.leaks_future}
    assert never_ranked == {
        "none",
        "sinkhorn",
        "bip",
        "random_router",
        "frozen_router",
        "expert_choice",
    }
