from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evenload.workers.balancing.base import Balancer, Observation

COUNT = torch.tensor([[8, 4, 4, 0]])
TARGET = torch.tensor([[4.0, 4.0, 4.0, 4.0]])


def first_bias(rule: Balancer, count_LE: torch.Tensor, target_LE: torch.Tensor) -> list[float]:
    state = rule.init(1, 4, torch.device("cpu"))
    return rule.update(Observation(count_LE, target_LE, 0.5), state).bias_LE[0].tolist()


def test_step_is_the_relative_error(lab: SimpleNamespace) -> None:
    rule = lab.make("proportional", step_size=0.1)
    assert first_bias(rule, COUNT, TARGET) == pytest.approx([-0.1, 0, 0, 0.1])


def test_error_is_relative_to_each_experts_own_target(lab: SimpleNamespace) -> None:
    rule = lab.make("proportional", step_size=0.1)
    bias = first_bias(rule, torch.tensor([[4, 4, 4, 4]]), torch.tensor([[2.0, 4.0, 5.0, 5.0]]))
    step = torch.tensor([-0.1, 0, 0.02, 0.02])
    assert bias == pytest.approx((step - step.mean()).tolist())


def test_counting_every_token_twice_cancels(lab: SimpleNamespace) -> None:
    rule = lab.make("proportional", step_size=0.1)
    assert first_bias(rule, 2 * COUNT, 2 * TARGET) == first_bias(rule, COUNT, TARGET)


def test_rms_steps_have_the_step_size_as_their_root_mean_square(lab: SimpleNamespace) -> None:
    rule = lab.make("proportional", step_size=0.1, normalise="rms")
    bias = torch.tensor(first_bias(rule, torch.tensor([[9, 4, 3, 0]]), TARGET))
    assert bias.square().mean().sqrt().item() == pytest.approx(0.1)


def test_rms_step_at_exact_balance_is_zero(lab: SimpleNamespace) -> None:
    rule = lab.make("proportional", step_size=0.1, normalise="rms")
    assert first_bias(rule, TARGET.long(), TARGET) == [0, 0, 0, 0]
