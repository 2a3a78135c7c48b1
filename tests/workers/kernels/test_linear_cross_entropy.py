"""Compares the fused head and loss with torch's cross entropy of all logits.

Tolerance: float32 sums over 150 tokens in another order differ by sqrt(150) * 6e-8 of the norm;
bf16 rounds each of the 3 products to 8 bits.
Letters: N stacked trials, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from evenload.workers.kernels import linear_cross_entropy as module
from evenload.workers.kernels.linear_cross_entropy import linear_cross_entropy


def make(trials: int = 1, tokens: int = 150) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_NTD = torch.randn(trials, tokens, 8, generator=generator).requires_grad_()
    head_NVD = torch.randn(trials, 30, 8, generator=generator).requires_grad_()
    return hidden_NTD, head_NVD, torch.randint(0, 30, (trials, tokens), generator=generator)


def of_all_logits(hidden_NTD: Tensor, head_NVD: Tensor, target_NT: Tensor) -> Tensor:
    logits = zip(hidden_NTD @ head_NVD.mT, target_NT, strict=True)
    return torch.stack(
        [functional.cross_entropy(logit_TV, target_T) for logit_TV, target_T in logits]
    )


@pytest.mark.parametrize("trials", [1, 3])
@pytest.mark.parametrize("tokens", [1, 64, 150])
def test_values_and_gradients_are_those_of_all_logits(
    monkeypatch: pytest.MonkeyPatch, trials: int, tokens: int
) -> None:
    """In blocks of 64 tokens: exactly one, a part of one, two and a part."""
    monkeypatch.setattr(module, "SMALLEST_BLOCK", 64)
    monkeypatch.setitem(module.BLOCK_VALUES, "cpu", 64 * 30)
    hidden_NTD, head_NVD, target_NT = make(trials, tokens)
    results = []
    for function in (linear_cross_entropy, of_all_logits):
        loss_N = function(hidden_NTD, head_NVD, target_NT)
        weight_N = torch.arange(1.0, trials + 1)
        grads = torch.autograd.grad((loss_N * weight_N).sum(), (hidden_NTD, head_NVD))
        results.append((loss_N, *grads))
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= 2e-6 * theirs.norm()


def test_bf16_multiplies_in_bf16_and_adds_up_in_float32() -> None:
    hidden_NTD, head_NVD, target_NT = make()
    low_NTD = hidden_NTD.detach().bfloat16().requires_grad_()
    loss_N = linear_cross_entropy(low_NTD, head_NVD, target_NT)
    loss_N.sum().backward()
    exact_N = of_all_logits(hidden_NTD, head_NVD, target_NT)
    exact_N.sum().backward()
    assert loss_N.dtype == head_NVD.grad.dtype == torch.float32
    assert low_NTD.grad.dtype == torch.bfloat16
    assert (loss_N - exact_N).abs() < 0.02
    assert (low_NTD.grad.float() - hidden_NTD.grad).norm() < 0.02 * hidden_NTD.grad.norm()


def test_without_gradients_none_are_computed() -> None:
    hidden_NTD, head_NVD, target_NT = make()
    with torch.no_grad():
        loss_N = linear_cross_entropy(hidden_NTD, head_NVD, target_NT)
    assert not loss_N.requires_grad
    torch.testing.assert_close(loss_N, of_all_logits(hidden_NTD, head_NVD, target_NT))
