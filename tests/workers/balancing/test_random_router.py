from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evenload.pipeline.figures.loads import max_vio, max_vio_floor
from evenload.workers.balancing.base import Balancer

TARGET = (0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05)


def loads(rule: Balancer, score: torch.Tensor) -> torch.Tensor:
    experts = score.shape[-1]
    chosen = rule.adjust(score, torch.zeros(experts)).topk(2, dim=-1).indices
    return chosen.flatten().bincount(minlength=experts)


def test_its_max_vio_is_the_sampling_floor(lab: SimpleNamespace) -> None:
    torch.manual_seed(0)
    rule, score = lab.make("random_router"), torch.rand(1024, 64)
    mean = torch.tensor([float(max_vio(loads(rule, score).numpy())) for _ in range(200)]).mean()
    assert float(mean) == pytest.approx(max_vio_floor(1024, 64, 2), rel=0.03)


def test_a_target_is_met_in_the_mean(lab: SimpleNamespace) -> None:
    torch.manual_seed(0)
    share = loads(lab.make("random_router", target=TARGET), torch.rand(40_000, 8)) / 80_000
    assert share.tolist() == pytest.approx(TARGET, abs=0.004)


@pytest.mark.parametrize("target", [None, TARGET])
def test_the_same_generator_state_draws_the_same_experts(
    lab: SimpleNamespace, target: tuple[float, ...] | None
) -> None:
    rule, score = lab.make("random_router", target=target), torch.rand(64, 8)
    state = torch.get_rng_state()
    first = rule.adjust(score, torch.zeros(8))
    other = rule.adjust(score, torch.zeros(8))
    torch.set_rng_state(state)
    assert torch.equal(rule.adjust(score, torch.zeros(8)), first)
    assert not torch.equal(first, other)


def test_every_token_draws_k_distinct_experts(lab: SimpleNamespace) -> None:
    drawn = lab.make("random_router", target=TARGET).adjust(torch.rand(5000, 8), torch.zeros(8))
    assert (drawn.sum(dim=-1) == 2).all()


def test_a_share_beyond_one_in_k_is_refused(lab: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"at most 1/top_k=0\.5"):
        lab.make("random_router", target=(0.6, 0.4, *[1e-9] * 6))
