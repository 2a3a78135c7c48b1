"""Compares the reference with the formula, token by token and expert by expert, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evenload.workers.kernels.reference import run_experts
from evenload.workers.kernels.rows import count_experts, rows_of_tokens


def by_the_formula(case: Any) -> Tensor:
    """Returns: (T, D), float64"""
    x_TD, gate_up_EGD, down_EDF = (value.double() for value in case[:3])
    y_TD = torch.zeros_like(x_TD)
    for token, (expert_K, weight_K) in enumerate(
        zip(case.expert_TK, case.weight_TK.double(), strict=True)
    ):
        for expert, weight in zip(expert_K, weight_K, strict=True):
            gate_FD, up_FD = gate_up_EGD[expert].chunk(2)
            hidden_F = functional.silu(gate_FD @ x_TD[token]) * (up_FD @ x_TD[token])
            y_TD[token] += weight * (down_EDF[expert] @ hidden_F)
    return y_TD


def test_reference_is_the_formula_for_values_and_gradients(case: Any) -> None:
    rows = rows_of_tokens(
        case.expert_TK, case.weight_TK, count_experts(case.expert_TK, len(case.down_EDF))
    )
    y_TD = run_experts(case.x_TD, case.gate_up_EGD, case.down_EDF, rows)
    expected_TD = by_the_formula(case)
    torch.testing.assert_close(y_TD.double(), expected_TD, rtol=1e-5, atol=1e-6)

    grad_TD = torch.randn(y_TD.shape, generator=torch.Generator().manual_seed(1))
    leaves = list(case.leaves.values())
    actual = torch.autograd.grad(y_TD, leaves, grad_TD)
    expected = torch.autograd.grad(expected_TD, leaves, grad_TD.double())
    for name, one, other in zip(case.leaves, actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: n + m)
