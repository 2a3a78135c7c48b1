"""Proof that the conformance suite detects a broken rule: each rule is broken once and caught.

A mutant is the source of a rule with one edit. Letters: L layers, E experts.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from evenload.pipeline.spec.balancers import PACE, parse_balancer
from evenload.workers.balancing.base import Balancer

FLIPPED_SIGN = [
    ("sign", "state.bias_LE + step", "state.bias_LE - step"),
    ("proportional", "state.bias_LE + step", "state.bias_LE - step"),
    ("smebu", "state.bias_LE + momentum_LE", "state.bias_LE - momentum_LE"),
    ("ema", "state.bias_LE + step_size", "state.bias_LE - step_size"),
    ("lion", "state.bias_LE + step_size", "state.bias_LE - step_size"),
    ("quantile", "return lowest_L1 + width_L1", "return -lowest_L1 - width_L1"),
    ("kalman", "centre(state.bias_LE + step_LE)", "centre(state.bias_LE - step_LE)"),
    ("self_tuned", "(state.bias_LE + step_LE)", "(state.bias_LE - step_LE)"),
]
DROPPED_CENTRING = [
    ("sign", "centred_rule(rule) if centred else rule", "rule"),
    (
        "proportional",
        "centred(Balancer(init=BiasState.zeros, update=update))",
        "Balancer(init=BiasState.zeros, update=update)",
    ),
    ("smebu", "centre(step_size", "(step_size"),
    (
        "ema",
        "centred(clipped(Balancer(init=_zeros, update=update), cap))",
        "clipped(Balancer(init=_zeros, update=update), cap)",
    ),
    (
        "lion",
        "centred(Balancer(init=_zeros, update=update))",
        "Balancer(init=_zeros, update=update)",
    ),
    ("quantile", "BiasState(centre(bias_LE)", "BiasState((bias_LE)"),
    ("kalman", "centre(state.bias_LE + step_LE)", "(state.bias_LE + step_LE)"),
    ("self_tuned", "centre(", "("),
]
PARAMS = {"sign": {"step_size": 0.05}, "proportional": {"step_size": 0.05}}


def mutant(kind: str, old: str, new: str) -> Balancer:
    original = import_module(f"evenload.workers.balancing.{kind}")
    source = inspect.getsource(original)
    assert old in source, f"the mutation of {kind} no longer applies"
    source = source.replace(old, new)
    if kind == "smebu" and new == "(step_size":
        source = source.replace("return centred(Balancer(", "return (Balancer(")
    module = ModuleType(original.__name__)
    exec(compile(source, f"mutant of {kind}", "exec"), module.__dict__)
    params = parse_balancer({"kind": kind, **PARAMS.get(kind, {})}).params
    rule: Balancer = module.make(**{name: params[name] for name in params.keys() - PACE.keys()})
    return rule


def first_update(rule: Balancer, lab: SimpleNamespace) -> tuple[Any, torch.Tensor]:
    state = rule.init(2, 8, torch.device("cpu"))
    seen = lab.observe(rule, state, lab.scores(0))
    return seen, rule.update(seen, state).bias_LE


def attracts_to_the_overloaded(rule: Balancer, lab: SimpleNamespace) -> bool:
    seen, bias_LE = first_update(rule, lab)
    over_LE = seen.count_LE > 1.5 * seen.target_LE
    assert over_LE.any()
    return bool((bias_LE[over_LE] > 0).all())


def drifts(rule: Balancer, lab: SimpleNamespace) -> bool:
    # With a uniform target relative errors sum to zero, so proportional steps keep the mean anyway.
    _, state = lab.run(rule, 12, target=(0.25, 0.15, *[0.1] * 6))
    return bool(state.bias_LE.mean(dim=-1).abs().max() > 1e-6)


@pytest.mark.parametrize(("kind", "old", "new"), FLIPPED_SIGN, ids=lambda v: str(v)[:12])
def test_a_flipped_sign_attracts_tokens_to_overloaded_experts(
    lab: SimpleNamespace, kind: str, old: str, new: str
) -> None:
    assert attracts_to_the_overloaded(mutant(kind, old, new), lab)
    assert not attracts_to_the_overloaded(lab.make(kind, **PARAMS.get(kind, {})), lab)


@pytest.mark.parametrize(("kind", "old", "new"), DROPPED_CENTRING, ids=lambda v: str(v)[:12])
def test_a_dropped_centring_lets_the_mean_drift(
    lab: SimpleNamespace, kind: str, old: str, new: str
) -> None:
    assert drifts(mutant(kind, old, new), lab)
    assert not drifts(lab.make(kind, **PARAMS.get(kind, {})), lab)
