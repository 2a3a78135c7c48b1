from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evenload.workers.balancing.base import Observation


def test_steps_are_soft_clipped_and_build_up_momentum(lab: SimpleNamespace) -> None:
    rule = lab.make("smebu", step_size=0.1, kappa=2.0, momentum=0.5)
    seen = Observation(torch.tensor([[8, 4, 4, 0]]), torch.full((1, 4), 4.0), 0.5)
    once = rule.update(seen, rule.init(1, 4, torch.device("cpu")))
    twice = rule.update(seen, once)
    step = 0.1 * 0.9640276  # tanh(2)
    assert once.bias_LE[0].tolist() == pytest.approx([-step / 2, 0, 0, step / 2])
    assert twice.bias_LE[0].tolist() == pytest.approx([-1.25 * step, 0, 0, 1.25 * step])
