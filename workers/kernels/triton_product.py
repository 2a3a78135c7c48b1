"""The router's product in three bf16 products of halves, on tensor cores.

Exact float32 products have no tensor cores: this one would take ten times as long as the rest of
the router. A float32 number is the sum of two bf16 ones up to 2^-17 of it; the product leaves out
only that of the two low halves. So its error is about 2^-17 of the norm, not 2^-12 as in tf32.
Letters: T tokens, D width, O outputs.
"""

from typing import Any

import torch
from torch import Tensor

from evenload.workers.kernels.tiles import on_device_of_first
from evenload.workers.kernels.triton_experts import Products
from evenload.workers.kernels.triton_support import interpreting

# tl.dot's name of the three products, which the interpreter does not know.
HALVES = "ieee" if interpreting() else "bf16x3"


@torch.library.custom_op("evenload::product_of_halves", mutates_args=())
@on_device_of_first
def product_of_halves(x_TD: Tensor, weight_OD: Tensor) -> Tensor:
    """x @ weight^T in float32, with gradients of the same precision."""
    return _one_expert(x_TD).rows(x_TD, weight_OD[None], transposed=True)


@product_of_halves.register_fake
def _(x_TD: Tensor, weight_OD: Tensor) -> Tensor:
    return x_TD.new_empty(len(x_TD), len(weight_OD))


@torch.library.custom_op("evenload::product_of_halves_backward", mutates_args=())
@on_device_of_first
def _gradients(grad_TO: Tensor, x_TD: Tensor, weight_OD: Tensor) -> tuple[Tensor, Tensor]:
    products = _one_expert(x_TD)
    grad_x_TD = products.rows(grad_TO, weight_OD[None], transposed=False)
    return grad_x_TD, products.grad_matrix(grad_TO, x_TD)[0]


@_gradients.register_fake
def _(grad_TO: Tensor, x_TD: Tensor, weight_OD: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x_TD), torch.empty_like(weight_OD)


def _one_expert(x_TD: Tensor) -> Products:
    """All tokens as the rows of one expert."""
    count_1 = torch.full((1,), len(x_TD), device=x_TD.device)
    return Products(x_TD, count_1, None, None, precision=HALVES)


def _backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor, Tensor]:
    grads: tuple[Tensor, Tensor] = torch.ops.evenload.product_of_halves_backward(
        grad_TO.contiguous(), *ctx.saved_tensors
    )
    return grads


product_of_halves.register_autograd(
    _backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
)
