"""Letters: T tokens, E experts, K top-k."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evenload.workers.simulation.dual import (
    change,
    dual_value,
    loads,
    minimiser,
    narrow_width,
    spectrum,
    tie_density,
)
from infra.research.assignment import balanced_assignment

EVEN = torch.full((8,), 64.0, dtype=torch.float64)  # T=256, K=2


def scores(tokens: int = 256, experts: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logit = torch.randn(tokens, experts, generator=generator, dtype=torch.float64)
    return torch.sigmoid(logit + torch.randn(experts, generator=generator, dtype=torch.float64))


def test_the_slope_of_the_dual_is_the_load_error() -> None:
    score, bias = scores(), 0.1 * torch.randn(8, dtype=torch.float64)
    slope = []
    for expert in range(8):
        step = torch.zeros(8, dtype=torch.float64)
        step[expert] = 1e-7
        above = dual_value(score, bias + step, EVEN, 2)
        slope.append((above - dual_value(score, bias - step, EVEN, 2)) / 2e-7)
    assert slope == pytest.approx((loads(score, bias, 2) - EVEN).tolist(), abs=1e-3)


def test_shifting_all_biases_changes_neither_the_dual_nor_the_loads() -> None:
    score, bias = scores(), 0.1 * torch.randn(8, dtype=torch.float64)
    shifted = dual_value(score, bias + 3, EVEN, 2)
    assert shifted == pytest.approx(dual_value(score, bias, EVEN, 2))
    assert torch.equal(loads(score, bias, 2), loads(score, bias + 3, 2))


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0])
def test_the_identity_is_exact_for_any_step_and_benefits_are_not_negative(size: float) -> None:
    torch.manual_seed(0)
    rose = 0
    for seed in range(20):
        score, bias = scores(seed=seed), 0.2 * torch.randn(8, dtype=torch.float64)
        step = size * torch.randn(8, dtype=torch.float64)
        moved = change(score, bias, bias + step, EVEN, 2)
        assert moved.total == pytest.approx(moved.linear + float(moved.benefit_T.sum()), abs=1e-9)
        assert float(moved.benefit_T.min()) >= -1e-12
        assert (moved.total > 0) == (float(moved.benefit_T.sum()) > -moved.linear)
        rose += moved.total > 0
    assert rose > 0


@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(256, 8, 2), (240, 6, 1), (200, 4, 3)])
def test_the_minimiser_finds_the_optimum_of_the_linear_program(
    tokens: int, experts: int, top_k: int
) -> None:
    score = scores(tokens, experts)
    even = torch.full((experts,), tokens * top_k / experts, dtype=torch.float64)
    found = minimiser(score, even, top_k)
    optimum = balanced_assignment(score.numpy(), top_k)
    assert dual_value(score, found, even, top_k) == pytest.approx(optimum.value, rel=1e-5)
    assert float((loads(score, found, top_k) - even).abs().max()) <= experts - 1
    assert float(found.mean()) == pytest.approx(0, abs=1e-12)


def test_tie_density_is_the_second_derivative_of_the_dual() -> None:
    score = scores(200_000)
    even = torch.full((8,), 50_000.0, dtype=torch.float64)
    bias = minimiser(score, even, 2)
    hessian = tie_density(score, bias, 2, 0.001)
    assert torch.allclose(hessian, hessian.T)
    assert torch.allclose(hessian.sum(dim=-1), torch.zeros(8, dtype=torch.float64), atol=1e-9)
    assert float(spectrum(hessian).value_E[0]) == pytest.approx(0, abs=1e-9)
    for expert in range(8):
        step = torch.zeros(8, dtype=torch.float64)
        step[expert] = 0.01
        slope = (loads(score, bias + step, 2) - loads(score, bias - step, 2)) / (0.02 * 200_000)
        assert torch.allclose(hessian[expert], slope, atol=0.09)
        assert float(hessian[expert, expert]) == pytest.approx(float(slope[expert]), rel=0.1)


def test_groups_that_never_compete_leave_the_dual_flat_between_them() -> None:
    torch.manual_seed(0)
    score = torch.rand(4000, 4, dtype=torch.float64)
    # Half of the tokens choose among the first two experts, the others among the last two.
    score[:2000, 2:] -= 10
    score[2000:, :2] -= 10
    bias = torch.zeros(4, dtype=torch.float64)
    width = narrow_width(score, bias, 1)
    assert spectrum(tie_density(score, bias, 1, width)).modulus == pytest.approx(0, abs=1e-9)
    assert spectrum(tie_density(score, bias, 1, width)).largest > 0.5


@pytest.mark.parametrize(("factor", "stable"), [(0.6, True), (2.5, False)])
def test_a_proportional_step_is_stable_only_below_its_limit(factor: float, stable: bool) -> None:
    score = scores(20_000)
    even = torch.full((8,), 5000.0, dtype=torch.float64)
    best = minimiser(score, even, 2)
    largest = spectrum(tie_density(score, best, 2, 0.005)).largest
    step = factor * 2 * (2 / 8) / largest
    bias = best + 1e-3 * torch.randn(8, dtype=torch.float64)
    for _ in range(60):
        bias = bias + step * (even - loads(score, bias, 2)) / even
    error = float((loads(score, bias, 2) - even).abs().max() / 5000)
    assert (error < 0.02) is stable
