"""Lion against numbers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evenload.workers.balancing.base import Observation


def seen(*loads: int) -> Observation:
    count_LE = torch.tensor([loads])
    target_LE = torch.full((1, len(loads)), sum(loads) / len(loads))
    return Observation(count_LE, target_LE, 0.5)


def test_two_steps_by_hand(lab: SimpleNamespace) -> None:
    rule = lab.make("lion", step_size=0.1, beta1=0.5, beta2=0.9, shrink=0.2)
    state = rule.init(1, 2, torch.device("cpu"))
    state = rule.update(seen(1, 3), state)  # errors 0.5 and -0.5
    assert state.bias_LE[0].tolist() == pytest.approx([0.1, -0.1])
    assert state.momentum_LE[0].tolist() == pytest.approx([0.05, -0.05])
    state = rule.update(seen(2, 2), state)  # balanced: the average of the past still points on
    assert state.bias_LE[0].tolist() == pytest.approx([0.1 + 0.1 * (1 - 0.02), -0.198])
    assert state.momentum_LE[0].tolist() == pytest.approx([0.045, -0.045])


def test_without_memory_and_pull_it_is_the_sign_rule(lab: SimpleNamespace) -> None:
    lion = lab.make("lion", step_size=0.1, beta1=0.0, beta2=0.0, shrink=0.0)
    sign = lab.make("sign", step_size=0.1)
    states = [rule.init(1, 4, torch.device("cpu")) for rule in (lion, sign)]
    for loads in ((1, 2, 3, 6), (4, 4, 1, 3)):
        states = [
            rule.update(seen(*loads), state)
            for rule, state in zip((lion, sign), states, strict=True)
        ]
        assert torch.equal(states[0].bias_LE, states[1].bias_LE)
