"""`self_tuned` adapts without any parameter. Letters: S steps, L layers, E experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evenload.pipeline.spec.balancers import parse_balancer
from evenload.pipeline.spec.simulation import Gaussian, StreamSpec
from evenload.workers.balancing import make_balancer
from evenload.workers.balancing.base import Observation
from evenload.workers.simulation.rule_runner import observe
from evenload.workers.simulation.score_streams import Size, score_stream


def run_stream(
    stream: StreamSpec, steps: int, tokens: int = 1024, experts: int = 16, top_k: int = 2
) -> tuple[Tensor, Any]:
    """MaxVio by step and seed, and the state after the last step."""
    rule = make_balancer(parse_balancer({"kind": "self_tuned"}), top_k)
    state = rule.init(2, experts, torch.device("cpu"))
    share_E = torch.full((experts,), 1 / experts)
    size = Size(2, tokens, experts, steps)
    vio = []
    for score in score_stream(stream, size, torch.Generator().manual_seed(0)):
        seen = observe(rule, state, score, top_k, share_E, 0.5)
        vio.append((seen.count_LE / seen.target_LE).amax(dim=-1) - 1)
        state = rule.update(seen, state)
    return torch.stack(vio), state


def test_a_cold_start_is_balanced_within_three_steps() -> None:
    vio_SL, _ = run_stream(Gaussian(), 12)
    assert (vio_SL[0] > 1).all()
    assert (vio_SL[3:].mean(dim=0) < 0.35).all()


def test_the_gain_falls_on_stationary_scores_and_settles_on_drifting_ones() -> None:
    _, stationary = run_stream(Gaussian(), 150)
    _, drifting = run_stream(Gaussian(drift=0.05), 150)
    assert (stationary.gain_L1 < 0.05).all()
    assert (drifting.gain_L1 > 0.2).all()
    assert (drifting.gain_L1 < 0.9).all()


def test_an_abrupt_change_is_met_within_ten_steps() -> None:
    vio_SL, _ = run_stream(Gaussian(jump_at=0.8), 100)
    assert (vio_SL[80] > 0.8).all()
    assert (vio_SL[84:90].mean(dim=0) < 0.4).all()


def test_two_experts_do_not_oscillate() -> None:
    vio_SL, _ = run_stream(Gaussian(), 60, tokens=4096, experts=2, top_k=1)
    assert vio_SL[30:].mean() < 0.03


def test_scores_in_other_units_give_the_bias_in_those_units() -> None:
    rule = make_balancer(parse_balancer({"kind": "self_tuned"}), 2)
    share_E = torch.full((8,), 1 / 8)
    biases = []
    for unit in (1.0, 2.0**-10):
        state = rule.init(1, 8, torch.device("cpu"))
        size = Size(1, 512, 8, 20)
        for score in score_stream(Gaussian(), size, torch.Generator().manual_seed(1)):
            state = rule.update(observe(rule, state, unit * score, 2, share_E, 0.5), state)
        biases.append(state.bias_LE / unit)
    assert torch.allclose(biases[0], biases[1], rtol=1e-3, atol=1e-5)


def test_one_unusual_batch_hardly_moves_a_settled_bias() -> None:
    rule = make_balancer(parse_balancer({"kind": "self_tuned"}), 2)
    _, state = run_stream(Gaussian(), 150)
    generator = torch.Generator().manual_seed(5)
    odd = torch.sigmoid(torch.randn(2, 1024, 16, generator=generator) + torch.linspace(-2, 2, 16))
    share_E = torch.full((16,), 1 / 16)
    seen = observe(rule, state, odd, 2, share_E, 0.5)
    assert (seen.count_LE / seen.target_LE).amax() > 1.8
    after = rule.update(seen, state)
    assert (after.bias_LE - state.bias_LE).abs().max() < 0.02


@pytest.mark.parametrize("offset", [-6.0, -12.0])
def test_a_dead_expert_gains_tokens_within_ten_steps(offset: float) -> None:
    rule = make_balancer(parse_balancer({"kind": "self_tuned"}), 2)
    state = rule.init(1, 16, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    preference = torch.zeros(16)
    preference[3] = offset
    share_E = torch.full((16,), 1 / 16)
    for _ in range(10):
        score = torch.sigmoid(torch.randn(1, 1024, 16, generator=generator) + preference)
        seen: Observation = observe(rule, state, score, 2, share_E, 0.5)
        state = rule.update(seen, state)
    assert seen.count_LE[0, 3] > 0.5 * seen.target_LE[0, 3]
