"""The noise model of `kalman`. Letters: L layers, E experts."""

from __future__ import annotations

import pytest
import torch

from evenload.pipeline.spec.balancers import parse_balancer
from evenload.pipeline.spec.simulation import Gaussian
from evenload.workers.balancing import kalman, make_balancer
from evenload.workers.balancing.base import Observation
from evenload.workers.simulation.rule_runner import observe
from evenload.workers.simulation.score_streams import Size, score_stream


def test_without_drift_and_prior_knowledge_the_gain_is_one_over_n(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kalman, "_adapt_noise", lambda z, variance, drift, noise: (variance, drift))
    rule = kalman.make()
    state = rule.init(1, 4, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    score = torch.rand(1, 4096, 4, generator=generator)
    seen = observe(rule, state, score, 1, torch.full((4,), 0.25), 0.5)
    # An error far above the noise makes the first variance practically infinite.
    count_LE = torch.tensor([[4096, 0, 0, 0]])
    state = rule.update(Observation(count_LE, seen.target_LE, 0.5, seen.statistic), state)
    noise_E = 1024 * (1 - 0.25) / state.curvature_LE.square()
    for n in range(1, 8):
        gain_E = state.variance_LE / noise_E
        assert gain_E[0].tolist() == pytest.approx([1 / n] * 4, rel=3e-3)
        state = rule.update(seen, state)


def test_innovations_have_the_predicted_size_on_independent_tokens() -> None:
    rule = make_balancer(parse_balancer({"kind": "kalman"}), 4)
    size = Size(2, 1024, 32, 120)
    share_E = torch.full((32,), 1 / 32)
    state = rule.init(2, 32, torch.device("cpu"))
    ratios = []
    for score in score_stream(Gaussian(), size, torch.Generator().manual_seed(0)):
        seen = observe(rule, state, score, 4, share_E, 0.5)
        error_LE = seen.target_LE - seen.count_LE
        predicted = seen.target_LE * (1 - 4 / 32) + (
            (state.variance_LE + state.drift_L1) * state.curvature_LE.square()
        )
        ratios.append(error_LE.square().mean() / predicted.mean())
        state = rule.update(seen, state)
    assert float(torch.stack(ratios[40:]).mean()) == pytest.approx(1.0, abs=0.1)
