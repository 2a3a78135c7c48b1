from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evenload.workers.balancing.base import Observation

SEEN = Observation(torch.tensor([[8, 4, 4, 0]]), torch.full((1, 4), 4.0), 0.5)


def test_the_error_is_averaged_before_it_moves_the_bias(lab: SimpleNamespace) -> None:
    rule = lab.make("ema", step_size=1.0, momentum=0.75)
    once = rule.update(SEEN, rule.init(1, 4, torch.device("cpu")))
    twice = rule.update(SEEN, once)
    assert once.bias_LE[0].tolist() == pytest.approx([-0.25, 0, 0, 0.25])
    assert twice.bias_LE[0].tolist() == pytest.approx([-0.6875, 0, 0, 0.6875])


def test_the_cap_holds_the_bias(lab: SimpleNamespace) -> None:
    rule = lab.make("ema", step_size=1.0, momentum=0.0, cap=0.5)
    state = rule.init(1, 4, torch.device("cpu"))
    for _ in range(5):
        state = rule.update(SEEN, state)
    assert state.bias_LE[0].tolist() == pytest.approx([-0.5, 0, 0, 0.5])
