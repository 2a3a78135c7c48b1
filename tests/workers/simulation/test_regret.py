"""Tests of the regret, its growth and its bounds. Letters: N steps, T tokens, E experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evenload.pipeline.spec.balancers import parse_balancer
from evenload.pipeline.spec.simulation import Gaussian
from evenload.workers.balancing import make_balancer
from evenload.workers.simulation.regret import (
    LayerRun,
    Regret,
    best_fixed_bias,
    fitted_growth,
    regret,
)
from evenload.workers.simulation.rule_runner import observe
from evenload.workers.simulation.score_streams import Size, score_stream

STEPS, TOKENS, EXPERTS, TOP_K = 600, 256, 8, 2
EVEN = torch.full((EXPERTS,), TOKENS * TOP_K / EXPERTS)


@pytest.fixture(scope="module")
def scores() -> Tensor:
    size = Size(1, TOKENS, EXPERTS, STEPS)
    stream = score_stream(Gaussian(), size, torch.Generator().manual_seed(0))
    return torch.stack([score[0] for score in stream])


@pytest.fixture(scope="module")
def best(scores: Tensor) -> Tensor:
    return best_fixed_bias(scores, EVEN, TOP_K)


def regret_of(scores: Tensor, best: Tensor, **rule: Any) -> Regret:
    spec = parse_balancer(rule)
    balancer = make_balancer(spec, TOP_K)
    state = balancer.init(1, EXPERTS, torch.device("cpu"))
    share_E = torch.full((EXPERTS,), 1 / EXPERTS)
    biases = []
    for score in scores:
        biases.append(state.bias_LE[0])
        seen = observe(balancer, state, score[None], TOP_K, share_E, 0.5)
        state = balancer.update(seen, state)
    return regret(LayerRun(scores, torch.stack(biases), EVEN, TOP_K), spec, best)


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "proportional", "step_size": 0.02},
        {"kind": "proportional", "step_size": 0.2, "schedule": "inverse_sqrt"},
        {"kind": "proportional", "step_size": 0.5, "schedule": "inverse"},
    ],
    ids=["constant", "inverse_sqrt", "inverse"],
)
def test_regret_of_gradient_steps_is_positive_and_below_its_bound(
    scores: Tensor, best: Tensor, rule: dict[str, Any]
) -> None:
    result = regret_of(scores, best, **rule)
    assert result.bound is not None
    assert 0 < result.total <= result.bound
    assert "below the bound" in result.finding


def test_a_decaying_step_has_less_regret_than_a_constant_one(scores: Tensor, best: Tensor) -> None:
    inverse = regret_of(scores, best, kind="proportional", step_size=0.5, schedule="inverse")
    constant = regret_of(scores, best, kind="proportional", step_size=0.1)
    assert inverse.total < constant.total
    assert constant.growth.law == "N"


def test_without_balancing_regret_is_linear(scores: Tensor, best: Tensor) -> None:
    result = regret_of(scores, best, kind="none")
    assert result.growth.law == "N"
    assert result.total > 10 * regret_of(scores, best, kind="self_tuned").total


def test_the_best_fixed_bias_is_best_over_the_whole_run(scores: Tensor, best: Tensor) -> None:
    spec = parse_balancer({"kind": "none"})
    own = LayerRun(scores, best.float().expand(STEPS, -1), EVEN, TOP_K)
    assert regret(own, spec, best).total == pytest.approx(0, abs=1e-4)
    nearby = own._replace(bias_NE=own.bias_NE + 0.02 * torch.randn(EXPERTS))
    assert regret(nearby, spec, best).total > 0


def test_a_schedule_too_small_for_the_modulus_names_the_needed_step(
    scores: Tensor, best: Tensor
) -> None:
    result = regret_of(scores, best, kind="proportional", step_size=0.01, schedule="inverse")
    assert result.bound is None
    assert "a 1/n step needs u >= 0." in result.bound_name


def test_tracking_moving_scores_beats_every_fixed_bias() -> None:
    size = Size(1, TOKENS, EXPERTS, 300)
    stream = score_stream(Gaussian(drift=0.05), size, torch.Generator().manual_seed(0))
    scores = torch.stack([score[0] for score in stream])
    result = regret_of(scores, best_fixed_bias(scores, EVEN, TOP_K), kind="self_tuned")
    assert result.total < 0
    assert "better than any fixed bias" in result.finding


@pytest.mark.parametrize(
    ("law", "name"),
    [(np.zeros_like, "a constant"), (np.log, "log N"), (np.sqrt, "sqrt N"), (np.positive, "N")],
)
def test_growth_laws_are_distinguished(law: Any, name: str) -> None:
    n = np.arange(1, 1001, dtype=np.float64)
    noise = np.random.default_rng(0).normal(0, 0.01, 1000)
    fit = fitted_growth(3 + 2 * law(n) + noise)
    assert fit.law == name
    drawn = fit.level + fit.slope * law(n)
    np.testing.assert_allclose(drawn, 3 + 2 * law(n), atol=0.02)


def test_curve_in_json_keeps_the_total_and_averages_the_gap(scores: Tensor, best: Tensor) -> None:
    result = regret_of(scores, best, kind="proportional", step_size=0.02)
    curve = result.curve()
    assert (len(curve["step"]), curve["step"][0], curve["step"][-1]) == (200, 1, STEPS)
    assert curve["regret"][-1] == pytest.approx(result.total)
    steps = np.diff(curve["step"], prepend=0)
    assert float(steps @ np.array(curve["dual_gap"])) == pytest.approx(result.total)
    assert curve["dual_gap"][0] > 10 * curve["dual_gap"][-1]


def test_spectrum_starts_at_zero_and_names_the_modulus(scores: Tensor, best: Tensor) -> None:
    result = regret_of(scores, best, kind="none")
    assert len(result.spectrum_E) == EXPERTS
    assert result.spectrum_E[0] == pytest.approx(0, abs=1e-9)
    assert result.modulus == result.spectrum_E[1] > 0
