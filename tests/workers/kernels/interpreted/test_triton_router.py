from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evenload.workers.balancing.margins import MARGIN_COUNTS, margin_counts
from evenload.workers.kernels.routing import Gate, Route
from evenload.workers.kernels.rows import count_experts, rows_of_tokens
from evenload.workers.kernels.triton_router import TINY, route

EPS = torch.finfo(torch.float32).eps
SHAPES = [(37, 7, 3), (1, 8, 1), (17, 6, 6), (70, 33, 4)]
GATES: list[Callable[..., Gate]] = [
    lambda top_k: Gate(top_k, softmax=True, renormalise=False, route_scale=1.0),
    lambda top_k: Gate(top_k, softmax=False, renormalise=True, route_scale=2.5),
]


def make_logits(tokens: int, experts: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    logit_TE = torch.randn(tokens, experts, generator=generator).requires_grad_()
    return logit_TE, 0.1 * torch.randn(experts, generator=generator)


def weights(score_TE: Tensor, expert_TK: Tensor, gate: Gate) -> Tensor:
    weight_TK = score_TE.gather(-1, expert_TK)
    if gate.renormalise:
        weight_TK = weight_TK / (weight_TK.sum(dim=-1, keepdim=True) + TINY.value)
    return weight_TK * gate.route_scale


def assert_close(actual: Tensor, expected: Tensor, terms: int) -> None:
    error = (actual.double() - expected.double()).norm() / expected.double().norm()
    # A few operations and a sum, whose rounding error grows with the root of its length.
    assert error <= 2 * EPS * terms**0.5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("gate_of", GATES, ids=["softmax", "sigmoid"])
def test_routing_agrees_with_the_formula(
    shape: tuple[int, int, int], gate_of: Callable[..., Gate]
) -> None:
    tokens, experts, top_k = shape
    logit_TE, bias_E = make_logits(tokens, experts)
    gate = gate_of(top_k)
    routed = route(logit_TE, bias_E, gate)
    score_TE = logit_TE.softmax(dim=-1) if gate.softmax else logit_TE.sigmoid()
    assert_close(routed.score_TE, score_TE, experts)
    # Uses the kernel's own scores, because rounding may order two equal scores either way.
    expert_TK = (routed.score_TE.detach() + bias_E).topk(top_k).indices
    assert torch.equal(routed.expert_TK, expert_TK)
    weight_TK = weights(score_TE, expert_TK, gate)
    assert_close(routed.weight_TK, weight_TK, top_k)

    rows = rows_of_tokens(expert_TK, weight_TK, count_experts(expert_TK, experts))
    assert torch.equal(routed.count_E, rows.count_E)
    assert torch.equal(routed.rows.token_R, rows.token_R)
    assert torch.equal(routed.rows.row_TK, rows.row_TK)
    assert_close(routed.rows.weight_R, rows.weight_R, top_k)

    generator = torch.Generator().manual_seed(1)
    grad_TE = torch.randn(score_TE.shape, generator=generator)
    grad_R = torch.randn(rows.weight_R.shape, generator=generator)
    (actual,) = torch.autograd.grad(
        [routed.score_TE, routed.rows.weight_R], logit_TE, [grad_TE, grad_R]
    )
    (expected,) = torch.autograd.grad([score_TE, rows.weight_R], logit_TE, [grad_TE, grad_R])
    assert_close(actual, expected, experts)


@pytest.mark.parametrize("part", ["score_TE", "weight_TK"])
def test_either_gradient_may_be_missing(part: str) -> None:
    logit_TE, bias_E = make_logits(9, 5)
    gate = Gate(2, softmax=True, renormalise=True, route_scale=1.0)
    routed: Route = route(logit_TE, bias_E, gate)
    score_TE = logit_TE.softmax(dim=-1)
    plain = {"score_TE": score_TE, "weight_TK": weights(score_TE, routed.expert_TK, gate)}
    one = torch.linspace(-1, 1, plain[part].numel()).view_as(plain[part])
    (actual,) = torch.autograd.grad(getattr(routed, part), logit_TE, one)
    (expected,) = torch.autograd.grad(plain[part], logit_TE, one)
    assert_close(actual, expected, 5)


def test_of_equal_scores_the_lowest_number_wins() -> None:
    gate = Gate(2, softmax=False, renormalise=False, route_scale=1.0)
    logit_TE = torch.tensor([[1.0, 2.0, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    assert route(logit_TE, torch.zeros(4), gate).expert_TK.tolist() == [[1, 2], [0, 1]]


def test_a_token_of_nans_still_gets_distinct_existing_experts() -> None:
    gate = Gate(2, softmax=False, renormalise=True, route_scale=1.0)
    logit_TE = torch.tensor([[float("nan")] * 3, [float("nan"), 0.0, float("nan")]])
    routed = route(logit_TE, torch.zeros(3), gate)
    assert routed.expert_TK.tolist() == [[0, 1], [1, 0]]
    assert routed.count_E.sum() == 4


def test_a_bias_selects_and_does_not_weigh() -> None:
    gate = Gate(1, softmax=False, renormalise=False, route_scale=1.0)
    routed = route(torch.zeros(3, 4), torch.tensor([0.0, 0.0, 1.0, 0.0]), gate)
    assert routed.expert_TK.flatten().tolist() == [2, 2, 2]
    assert routed.weight_TK.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_margins_fall_into_the_bins_of_balancing(shape: tuple[int, int, int]) -> None:
    tokens, experts, top_k = shape
    logit_TE, bias_E = make_logits(tokens, experts)
    gate = Gate(top_k, softmax=True, renormalise=True, route_scale=1.0)
    routed = route(logit_TE, bias_E, gate, MARGIN_COUNTS.bins)
    expected = margin_counts(routed.score_TE.detach(), bias_E, top_k)
    assert torch.equal(routed.margin_E2B, expected)
    assert torch.equal(routed.margin_E2B[:, 0].sum(dim=-1), routed.count_E)


def test_a_tie_counts_as_not_chosen_as_in_balancing() -> None:
    logit_TE = torch.tensor([[1.0, 1.0, 1.0], [2.0, 1.0, 1.0]])
    gate = Gate(2, softmax=False, renormalise=True, route_scale=1.0)
    routed = route(logit_TE, torch.zeros(3), gate, MARGIN_COUNTS.bins)
    expected = margin_counts(routed.score_TE, torch.zeros(3), 2)
    assert torch.equal(routed.margin_E2B, expected)
    assert routed.margin_E2B[:, 0].sum() == 1


def test_the_operator_passes_torchs_checks() -> None:
    logit_TE, bias_E = make_logits(6, 4)
    arguments = (logit_TE, bias_E, 2, True, True, 1.0, 3, 0.1, 1)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.evenload.route, arguments, test_utils=checks)
