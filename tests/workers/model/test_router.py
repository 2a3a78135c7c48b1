"""Letters: T tokens, E experts, K top-k, D width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.kernels.rows import Rows
from evenload.workers.model.contract import Routed
from evenload.workers.model.router import Router

Model = Callable[..., ModelSpec]
X_TD = torch.randn(40, 32, generator=torch.Generator().manual_seed(1))


def make_router(spec: ModelSpec) -> Router:
    router = Router(spec)
    generator = torch.Generator().manual_seed(2)
    torch.nn.init.normal_(router.weight_ED, std=0.3, generator=generator)
    return router


def route(
    spec: ModelSpec, bias_E: Tensor | None = None, selects: Any = "tokens", x_TD: Tensor = X_TD
) -> tuple[Routed, Rows]:
    bias_E = torch.zeros(spec.num_experts) if bias_E is None else bias_E
    routed: tuple[Routed, Rows] = make_router(spec)(x_TD, bias_E, torch.add, selects)
    return routed


def test_scores_are_the_gate_of_the_logits(spec_of: Model) -> None:
    odds_TE = (X_TD @ make_router(spec_of()).weight_ED.T).exp()
    gates = ("sigmoid", "softmax", "sqrt_softplus")
    sigmoid, softmax, root = (route(spec_of(gate=gate))[0].score_TE for gate in gates)
    torch.testing.assert_close(root, (1 + odds_TE).log().sqrt())
    torch.testing.assert_close(sigmoid, odds_TE / (1 + odds_TE))
    torch.testing.assert_close(softmax, odds_TE / odds_TE.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("gate", ["sigmoid", "softmax", "sqrt_softplus"])
@pytest.mark.parametrize("renormalise", [True, False])
def test_weights_are_the_plain_scores_of_the_biased_choice(
    spec_of: Model, gate: str, renormalise: bool
) -> None:
    spec = spec_of(gate=gate, renormalise=renormalise, route_scale=2.5)
    bias_E = torch.linspace(-0.3, 0.3, spec.num_experts)
    routed = route(spec, bias_E)[0]
    for score_E, expert_K, weight_K in zip(
        routed.score_TE, routed.expert_TK, routed.weight_TK, strict=True
    ):
        best = sorted(range(spec.num_experts), key=lambda e: -(score_E + bias_E)[e].item())
        assert expert_K.tolist() == best[: spec.top_k]
        chosen_K = score_E[expert_K]
        expected_K = chosen_K / chosen_K.sum() if renormalise else chosen_K
        torch.testing.assert_close(weight_K, 2.5 * expected_K)


@pytest.mark.parametrize(("num_groups", "top_groups"), [(4, 1), (4, 2), (2, 1), (2, 2)])
def test_tokens_choose_in_the_groups_with_the_best_two_experts(
    spec_of: Model, num_groups: int, top_groups: int
) -> None:
    spec = spec_of(num_groups=num_groups, top_groups=top_groups)
    bias_E = torch.linspace(-1.5, -1.1, spec.num_experts)  # every biased score is below 0
    routed = route(spec, bias_E)[0]
    size = spec.num_experts // num_groups
    for score_E, expert_K in zip(routed.score_TE, routed.expert_TK, strict=True):
        biased = (score_E + bias_E).tolist()
        groups = [range(first, first + size) for first in range(0, spec.num_experts, size)]
        groups.sort(key=lambda group: -sum(sorted(biased[e] for e in group)[-2:]))
        offered = [expert for group in groups[:top_groups] for expert in group]
        best = sorted(offered, key=lambda expert: -biased[expert])[: spec.top_k]
        assert expert_K.tolist() == best
    assert routed.count_E.sum() == len(X_TD) * spec.top_k


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_groups": 3}, "num_groups=3 must divide num_experts=8"),
        ({"num_groups": 8}, "groups of at least two"),
        ({"num_groups": 4, "top_k": 3}, "offer 2 of num_experts=8"),
        ({"top_groups": 2}, "top_groups=2 of num_groups=1"),
    ],
)
def test_groups_that_do_not_fit_are_refused(
    spec_of: Model, changes: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        spec_of(**changes)


def test_the_square_root_of_softplus_has_a_gradient_where_it_vanishes(spec_of: Model) -> None:
    router = make_router(spec_of(gate="sqrt_softplus"))
    routed = router(X_TD * 1000, torch.zeros(8), torch.add, "tokens")[0]
    assert float(routed.score_TE.detach().min()) < 1e-9
    routed.weight_TK.sum().backward()
    assert router.weight_ED.grad is not None
    assert router.weight_ED.grad.isfinite().all()


def test_a_bias_that_keeps_the_choice_keeps_the_weights_bit_for_bit(spec_of: Model) -> None:
    spec = spec_of()
    plain, biased = route(spec)[0], route(spec, torch.full((8,), 0.25))[0]
    assert torch.equal(plain.expert_TK, biased.expert_TK)
    assert torch.equal(plain.weight_TK, biased.weight_TK)


def test_a_positive_bias_attracts_tokens(spec_of: Model) -> None:
    bias_E = torch.zeros(8)
    bias_E[3] = 0.2
    before, after = route(spec_of())[0].count_E, route(spec_of(), bias_E)[0].count_E
    assert after[3] > before[3]
    assert (after[:3] <= before[:3]).all()
    assert (after[4:] <= before[4:]).all()


def test_no_gradient_passes_through_the_bias_or_the_selection(spec_of: Model) -> None:
    bias_E = torch.zeros(8, requires_grad=True)
    router = make_router(spec_of(renormalise=False))
    seen = []

    def adjust(score_TE: Tensor, bias_E: Tensor) -> Tensor:
        seen.append((score_TE.requires_grad, torch.is_grad_enabled()))
        return score_TE + bias_E

    routed, _ = router(X_TD, bias_E, adjust, "tokens")
    routed.weight_TK.sum().backward()
    assert seen == [(False, False)]
    assert bias_E.grad is None
    assert router.weight_ED.grad.norm() > 0


@pytest.mark.parametrize("selects", ["tokens", "experts"])
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"), [(40, 8, 2), (1, 8, 2), (1, 8, 8), (40, 6, 6), (37, 7, 3)]
)
def test_counts_sum_to_tokens_times_top_k(
    spec_of: Model, selects: str, tokens: int, experts: int, top_k: int
) -> None:
    spec = spec_of(num_experts=experts, top_k=top_k)
    routed, rows = route(spec, selects=selects, x_TD=X_TD[:tokens])
    assert int(routed.count_E.sum()) == tokens * top_k == len(rows.token_R)
    assert torch.equal(routed.count_E, routed.expert_TK.flatten().bincount(minlength=experts))
    assert routed.count_E.dtype == torch.int64


def test_each_expert_takes_the_tokens_with_its_highest_adjusted_scores(spec_of: Model) -> None:
    spec = spec_of(renormalise=False, route_scale=3.0)
    routed, rows = route(spec, selects="experts")
    assert routed.count_E.tolist() == [10] * 8
    chunks = zip(rows.token_R.split(10), rows.weight_R.split(10), strict=True)
    for expert, (token_C, weight_C) in enumerate(chunks):
        score_T = routed.score_TE[:, expert]
        best = sorted(range(40), key=lambda t: -score_T[t].item())[:10]
        assert sorted(token_C.tolist()) == sorted(best)
        torch.testing.assert_close(weight_C, 3 * score_T[token_C])


def test_renormalised_weights_of_an_expert_choice_sum_to_one_per_chosen_token(
    spec_of: Model,
) -> None:
    _, rows = route(spec_of(), selects="experts")
    sum_T = torch.zeros(40).index_add(0, rows.token_R, rows.weight_R.detach())
    chosen_T = torch.zeros(40, dtype=torch.bool).index_fill(0, rows.token_R, True)
    torch.testing.assert_close(sum_T[chosen_T], torch.ones(int(chosen_T.sum())))


def test_scores_that_all_underflow_give_finite_weights(spec_of: Model) -> None:
    router = make_router(spec_of())
    torch.nn.init.constant_(router.weight_ED, -1e4)
    routed, _ = router(X_TD.abs(), torch.zeros(8), torch.add, "tokens")
    assert routed.score_TE.max() == 0
    assert routed.weight_TK.abs().max() == 0


@pytest.mark.parametrize("how", ["cast", "autocast"])
def test_scores_are_float32_under_bf16(spec_of: Model, how: str) -> None:
    """The scores differ from rounded ones, which would tie."""
    router = make_router(spec_of()).bfloat16()
    x_TD = X_TD.bfloat16()
    expected_TE = (x_TD.float() @ router.weight_ED.float().T).sigmoid()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        routed, rows = router(x_TD, torch.zeros(8), torch.add, "tokens")
    torch.testing.assert_close(routed.score_TE, expected_TE, rtol=1e-6, atol=0)
    assert not torch.equal(routed.score_TE, routed.score_TE.bfloat16().float())
    assert {routed.score_TE.dtype, routed.weight_TK.dtype, rows.weight_R.dtype} == {torch.float32}
