"""Compares each hand-written derivative with autograd's composition of the same step.

Tolerance: sums of n float32 terms in another order differ by about sqrt(n) roundings of 6e-8. The
longest sums here have 24 rows of 16, so 2e-6 of the norm allows for three of them.
Letters: T tokens, D width, F hidden width, S positions, H heads, P width of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from evenload.workers.kernels import cpu_passes

TOLERANCE = 2e-6
Function = Callable[..., Tensor]


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def assert_same(one: Function, other: Function, *inputs: Tensor) -> None:
    """Values and every gradient, for an upstream gradient that differs from row to row."""
    results = []
    for function in (one, other):
        value = function(*inputs)
        upstream = torch.randn(value.shape, generator=torch.Generator().manual_seed(9))
        results.append((value, *torch.autograd.grad(value, inputs, upstream)))
    for left, right in zip(*results, strict=True):
        assert left.shape == right.shape
        assert (left - right).norm() <= TOLERANCE * right.norm()


def test_rms_norm() -> None:
    assert_same(
        lambda x, weight: cpu_passes.RmsNorm.apply(x, weight, 1e-6),
        lambda x, weight: functional.rms_norm(x, (16,), weight, 1e-6),
        leaf(3, 8, 16),
        leaf(16, seed=1),
    )


def test_rms_norm_of_stacked_trials_is_that_of_each() -> None:
    def one_by_one(x: Tensor, weight: Tensor) -> Tensor:
        return torch.stack(
            [functional.rms_norm(a, (16,), b, 1e-6) for a, b in zip(x, weight, strict=True)]
        )

    assert_same(
        lambda x, weight: cpu_passes.RmsNorm.apply(x, weight, 1e-6),
        one_by_one,
        leaf(2, 3, 4, 16),
        leaf(2, 16, seed=1),
    )


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rms_norm_of_tiny_values_depends_on_eps(eps: float) -> None:
    x_TD = (1e-3 * leaf(4, 16)).detach().requires_grad_()
    assert_same(
        lambda x, weight: cpu_passes.RmsNorm.apply(x, weight, eps),
        lambda x, weight: functional.rms_norm(x, (16,), weight, eps),
        x_TD,
        leaf(16, seed=1),
    )


def swiglu(gate_up_TG: Tensor, weight_T: Tensor | None = None) -> Tensor:
    gate_TF, up_TF = gate_up_TG.chunk(2, dim=-1)
    act_TF = functional.silu(gate_TF) * up_TF
    return act_TF if weight_T is None else act_TF * weight_T.unsqueeze(-1)


def test_swiglu() -> None:
    assert_same(lambda x: cpu_passes.SwiGlu.apply(x, None), swiglu, leaf(3, 8, 12))


def test_weighted_swiglu() -> None:
    assert_same(cpu_passes.SwiGlu.apply, swiglu, leaf(24, 12), leaf(24, seed=1))


@pytest.mark.parametrize("stacked", [(), (2,)])
def test_rotated_qkv(stacked: tuple[int, ...]) -> None:
    turn_S1P = torch.polar(torch.ones(5, 1, 4), leaf(5, 1, 4).detach())

    def fused(qkv: Tensor) -> Tensor:
        return torch.stack(cpu_passes.RotatedQkv.apply(qkv, turn_S1P))

    def composed(qkv: Tensor) -> Tensor:
        q, k, v = qkv.unbind(dim=-3)
        turned = (torch.view_as_complex(side.unflatten(-1, (-1, 2))) * turn_S1P for side in (q, k))
        return torch.stack([*(torch.view_as_real(side).flatten(-2) for side in turned), v])

    assert_same(fused, composed, leaf(*stacked, 3, 5, 3, 2, 8))


def test_only_float32_on_a_cpu_takes_this_path() -> None:
    assert cpu_passes.applies_to(torch.zeros(2))
    assert not cpu_passes.applies_to(torch.zeros(2, dtype=torch.bfloat16))
    assert not cpu_passes.applies_to(torch.zeros(2, device="meta"))
