"""Tests of the router's product. The interpreter computes it exactly, whatever its precision."""

from __future__ import annotations

import torch

from evenload.workers.kernels.triton_product import product_of_halves


def test_the_product_and_both_gradients_agree_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(37, 40, generator=generator).requires_grad_()
    weight_OD = torch.randn(7, 40, generator=generator).requires_grad_()
    grad_TO = torch.randn(37, 7, generator=generator)
    results = []
    for product in (product_of_halves, torch.nn.functional.linear):
        y_TO = product(x_TD, weight_OD)
        results.append([y_TO, *torch.autograd.grad(y_TO, [x_TD, weight_OD], grad_TO)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_operator_passes_torchs_checks() -> None:
    arguments = (torch.randn(5, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.evenload.product_of_halves, arguments, test_utils=checks)
