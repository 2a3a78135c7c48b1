"""Value, direction and scale of the auxiliary loss against an independent derivation."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from evenload.workers.balancing.base import Balancer, RoutedBatch

SCOPES = ("local", "sequence", "global")


def batch(logit_TE: Tensor, top_k: int, num_sequences: int = 1, before: int = 0) -> RoutedBatch:
    score_TE = torch.sigmoid(logit_TE)
    expert_TK = score_TE.topk(top_k, dim=-1).indices
    count_E = expert_TK.flatten().bincount(minlength=score_TE.shape[-1])
    return RoutedBatch(score_TE, expert_TK, count_E, count_E + before, num_sequences)


def loss_of(rule: Balancer, routed: RoutedBatch) -> Tensor:
    assert rule.loss is not None
    return rule.loss(routed)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("experts", "top_k"), [(4, 1), (8, 2), (64, 6), (3, 3)])
@pytest.mark.parametrize("sequences", [1, 4])
def test_value_is_alpha_at_uniform_routing(
    lab: SimpleNamespace, scope: str, experts: int, top_k: int, sequences: int
) -> None:
    rule = lab.make("aux_loss", top_k, coefficient=0.01, scope=scope)
    tokens = experts * sequences
    first = torch.arange(tokens) % experts
    expert_TK = (first[:, None] + torch.arange(top_k)) % experts
    count_E = expert_TK.flatten().bincount(minlength=experts)
    routed = RoutedBatch(torch.full((tokens, experts), 0.3), expert_TK, count_E, count_E, sequences)
    assert float(loss_of(rule, routed)) == pytest.approx(0.01, rel=1e-5)


def test_value_is_alpha_at_the_wanted_load(lab: SimpleNamespace) -> None:
    target = (0.5, 0.3, 0.2)
    rule = lab.make("aux_loss", 1, coefficient=0.01, target=target)
    count_E = torch.tensor([5, 3, 2])
    expert_TK = torch.arange(3).repeat_interleave(count_E)[:, None]
    routed = RoutedBatch(torch.rand(10, 3), expert_TK, count_E, count_E, 1)
    assert float(loss_of(rule, routed)) == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("scope", SCOPES)
def test_groups_are_balanced_as_wholes(lab: SimpleNamespace, scope: str) -> None:
    """alpha * sum over groups of f' P': f' the mean of f in a group, P' the sum of P."""
    rule = lab.make("aux_loss", 2, coefficient=0.01, scope=scope, groups=2)
    even_within = torch.tensor([[0, 2], [0, 2], [0, 2], [0, 2]])  # experts 1 and 3 idle
    count_E = even_within.flatten().bincount(minlength=4)
    score_TE = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    assert float(loss_of(rule, RoutedBatch(score_TE, even_within, count_E, count_E, 1))) == (
        pytest.approx(0.01, rel=1e-5)
    )
    one_group = torch.tensor([[0, 1]] * 4)
    count_E = one_group.flatten().bincount(minlength=4)
    found = float(loss_of(rule, RoutedBatch(score_TE, one_group, count_E, count_E, 1)))
    prob_E = (score_TE / score_TE.sum(dim=-1, keepdim=True)).mean(dim=0)
    assert found == pytest.approx(0.01 * 2 * float(prob_E[:2].sum()), rel=1e-5)


def derived_gradient(logit_TE: Tensor, top_k: int, alpha: float, load_E: Tensor) -> Tensor:
    """d loss / d logit by hand: alpha E / T * (f_k - sum_j f_j p_j) * p_k * (1 - s_k), f shares."""
    tokens, experts = logit_TE.shape
    s = torch.sigmoid(logit_TE)
    p = s / s.sum(dim=-1, keepdim=True)
    f = load_E.double() / load_E.sum()
    mean_f = (p * f).sum(dim=-1, keepdim=True)
    return alpha * experts / tokens * (f - mean_f) * p * (1 - s)


@pytest.mark.parametrize("scope", SCOPES)
def test_gradient_is_the_derived_one(lab: SimpleNamespace, scope: str) -> None:
    torch.manual_seed(0)
    logit = (torch.randn(64, 8, dtype=torch.float64) + torch.linspace(2, -2, 8)).requires_grad_()
    routed = batch(logit, 2)
    loss_of(lab.make("aux_loss", coefficient=0.1, scope=scope), routed).backward()
    wanted = derived_gradient(logit.detach(), 2, 0.1, routed.count_E)
    assert logit.grad is not None
    assert torch.allclose(logit.grad, wanted, rtol=1e-5, atol=1e-10)


def test_global_scope_takes_the_loads_of_the_step_so_far(lab: SimpleNamespace) -> None:
    torch.manual_seed(0)
    logit = torch.randn(64, 8, dtype=torch.float64, requires_grad=True)
    routed = batch(logit, 2, before=1000)
    loss_of(lab.make("aux_loss", coefficient=0.1, scope="global"), routed).backward()
    wanted = derived_gradient(logit.detach(), 2, 0.1, routed.step_count_E)
    assert logit.grad is not None
    assert torch.allclose(logit.grad, wanted, rtol=1e-5, atol=1e-10)


def test_sequence_scope_is_the_mean_of_single_sequences(lab: SimpleNamespace) -> None:
    torch.manual_seed(0)
    logit = torch.randn(96, 8)
    sequence = lab.make("aux_loss", scope="sequence")
    local = lab.make("aux_loss", scope="local")
    parts = [float(loss_of(local, batch(part, 2))) for part in logit.split(24)]
    assert float(loss_of(sequence, batch(logit, 2, 4))) == pytest.approx(sum(parts) / 4, rel=1e-5)


@pytest.mark.parametrize("scope", SCOPES)
def test_pushing_along_the_gradient_lowers_the_largest_load(
    lab: SimpleNamespace, scope: str
) -> None:
    torch.manual_seed(0)
    rule = lab.make("aux_loss", coefficient=1.0, scope=scope)
    logit = torch.randn(512, 8) + torch.linspace(1, -1, 8)
    start = int(batch(logit, 2).count_E.max())
    for _ in range(30):
        shift = torch.zeros(8, requires_grad=True)
        loss_of(rule, batch(logit + shift, 2)).backward()
        assert shift.grad is not None
        logit = logit - 5 * shift.grad
    assert int(batch(logit, 2).count_E.max()) < 0.7 * start


@pytest.mark.parametrize("parts", [2, 8])
def test_micro_batches_and_ranks_change_neither_value_nor_gradient_scale(
    lab: SimpleNamespace, parts: int
) -> None:
    """With loads pooled and equal parts, the mean of the parts' losses is the loss of the whole."""
    torch.manual_seed(0)
    rule = lab.make("aux_loss", coefficient=0.1, scope="global")
    logit = torch.randn(64, 8, requires_grad=True)
    whole = batch(logit, 2)
    loss = loss_of(rule, whole)
    (gradient,) = torch.autograd.grad(loss, logit, retain_graph=True)
    rows = zip(whole.score_TE.chunk(parts), whole.expert_TK.chunk(parts), strict=True)
    pooled = torch.stack(
        [loss_of(rule, RoutedBatch(s, e, whole.count_E, whole.count_E, 1)) for s, e in rows]
    ).mean()
    (split,) = torch.autograd.grad(pooled, logit)
    assert float(pooled.detach()) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert torch.allclose(split, gradient, rtol=1e-4, atol=1e-9)
