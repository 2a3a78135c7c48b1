from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evenload.workers.balancing.base import Observation, centre
from evenload.workers.balancing.quantile import shortfall


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_with_thresholds_fixed_every_expert_gets_exactly_its_load(
    lab: SimpleNamespace, top_k: int
) -> None:
    rule = lab.make("quantile", top_k, method="exact")
    state = rule.init(1, 8, torch.device("cpu"))
    score = lab.scores(0, layers=1)
    seen = lab.observe(rule, state, score, top_k)
    r_TE = shortfall(score[0], torch.zeros(8), top_k)
    # The rule centres, so its bias is known up to a shift that the median expert fixes.
    bias_E = rule.update(seen, state).bias_LE[0]
    order = r_TE.sort(dim=0).values[256 * top_k // 8]
    assert torch.allclose(bias_E, centre(order), atol=1e-6)
    # r is 0 for every token whose threshold is the expert itself, so these tokens tie.
    assert ((r_TE < order).sum(dim=0) <= 256 * top_k // 8).all()
    assert ((r_TE <= order).sum(dim=0) > 256 * top_k // 8).all()


@pytest.mark.parametrize("bins", [100, 1000])
def test_histogram_is_within_a_bin_of_the_exact_quantile(lab: SimpleNamespace, bins: int) -> None:
    exact, histogram = lab.make("quantile", method="exact"), lab.make("quantile", bins=bins)
    state = exact.init(2, 8, torch.device("cpu"))
    for step in range(3):
        score = lab.scores(step, tokens=2000)
        ours = histogram.update(lab.observe(histogram, state, score), state).bias_LE
        width = (state.bias_LE.amax() - state.bias_LE.amin() + 2) / bins
        state = exact.update(lab.observe(exact, state, score), state)
        gap_to_next_token = 0.02
        assert (ours - state.bias_LE).abs().max() < 2 * width + gap_to_next_token


def test_memory_keeps_a_share_of_the_old_bias(lab: SimpleNamespace) -> None:
    plain, slow = lab.make("quantile"), lab.make("quantile", memory=0.75)
    state = plain.init(2, 8, torch.device("cpu"))
    seen = lab.observe(plain, state, lab.scores(0))
    fast = plain.update(seen, state).bias_LE
    assert torch.allclose(slow.update(seen, state).bias_LE, fast / 4, atol=1e-6)


def test_one_step_almost_balances(lab: SimpleNamespace) -> None:
    load_SLE, _ = lab.run(lab.make("quantile"), 3, tokens=4096)
    assert load_SLE[0].amax() > 2.5
    assert load_SLE[2].amax() < 1.25


def test_a_histogram_over_two_ranks_is_the_sum_of_theirs(lab: SimpleNamespace) -> None:
    rule = lab.make("quantile")
    state = rule.init(2, 8, torch.device("cpu"))
    score = lab.scores(0)
    left, right = (lab.observe(rule, state, part) for part in score.chunk(2, dim=1))
    both = Observation(
        left.count_LE + right.count_LE,
        left.target_LE + right.target_LE,
        0.5,
        left.statistic + right.statistic,
    )
    whole = lab.observe(rule, state, score)
    assert torch.equal(rule.update(both, state).bias_LE, rule.update(whole, state).bias_LE)


@pytest.mark.parametrize("method", ["histogram", "exact"])
def test_padding_leaves_the_statistic_alone(lab: SimpleNamespace, method: str) -> None:
    rule = lab.make("quantile", method=method)
    score, bias = torch.rand(8, 8), torch.linspace(-0.2, 0.2, 8)
    padded, valid = torch.cat([score, torch.rand(3, 8)]), torch.arange(11) < 8
    expected = rule.measure.of(score, bias, 2)
    assert torch.equal(rule.measure.of(padded, bias, 2, valid), expected)


def test_experts_of_a_masked_group_lie_in_the_last_bin(lab: SimpleNamespace) -> None:
    score = torch.rand(16, 8)
    score[:, 4:] = -torch.inf
    count = lab.make("quantile", bins=100).measure.of(score, torch.zeros(8), 2)
    assert count[4:, -1].tolist() == [16] * 4
    assert count[4:, :-1].sum() == 0
