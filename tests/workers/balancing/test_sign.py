from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evenload.workers.balancing.base import Balancer, Observation

COUNT = torch.tensor([[7, 5, 4, 0]])  # L = 4: over, over, balanced, starved


def biases(rule: Balancer, steps: int = 1) -> list[float]:
    state = rule.init(1, 4, torch.device("cpu"))
    for step in range(steps):
        progress = (step + 1) / steps
        state = rule.update(Observation(COUNT, torch.full((1, 4), 4.0), progress), state)
    return state.bias_LE[0].tolist()


def test_one_step_moves_by_the_step_size_against_the_error(lab: SimpleNamespace) -> None:
    rule = lab.make("sign", step_size=0.5, centred=False)
    assert biases(rule) == [-0.5, -0.5, 0.0, 0.5]


def test_centring_shifts_all_experts_alike(lab: SimpleNamespace) -> None:
    assert biases(lab.make("sign", step_size=0.5)) == [-0.375, -0.375, 0.125, 0.625]


@pytest.mark.parametrize(
    ("schedule", "total"), [("constant", 3.0), ("inverse_sqrt", 2.2844571), ("inverse", 1.8333334)]
)
def test_schedules_count_the_updates(lab: SimpleNamespace, schedule: str, total: float) -> None:
    rule = lab.make("sign", step_size=1.0, centred=False, schedule=schedule)
    assert biases(rule, 3)[3] == pytest.approx(total)


def test_step_of_a_thousandth_is_not_lost_in_precision(lab: SimpleNamespace) -> None:
    assert biases(lab.make("sign", centred=False), 2000)[3] == pytest.approx(2.0, rel=1e-3)
