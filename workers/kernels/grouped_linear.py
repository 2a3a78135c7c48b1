"""torch's grouped matrix product as an operator that torch.compile accepts in every dtype.

torch's own tracing of it accepts only bf16 (torch 2.13). Outside of a compiled model the plain
function is called, which has less overhead.
Letters: R rows, E experts, D width in, O width out.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def grouped_linear(x_RD: Tensor, weight_EOD: Tensor, offset_E: Tensor) -> Tensor:
    """x @ weight^T for the rows of each expert, (R, O).

    Args:     offset_E: int32, the end of the rows of each expert
    """
    if torch.compiler.is_compiling():
        return _grouped_linear(x_RD, weight_EOD, offset_E)
    return functional.grouped_mm(x_RD, weight_EOD.mT, offs=offset_E)


@torch.library.custom_op("evenload::grouped_linear", mutates_args=())
def _grouped_linear(x_RD: Tensor, weight_EOD: Tensor, offset_E: Tensor) -> Tensor:
    return functional.grouped_mm(x_RD, weight_EOD.mT, offs=offset_E)


@_grouped_linear.register_fake
def _(x_RD: Tensor, weight_EOD: Tensor, offset_E: Tensor) -> Tensor:
    return x_RD.new_empty(x_RD.shape[0], weight_EOD.shape[1])


@torch.library.custom_op("evenload::grouped_linear_backward", mutates_args=())
def _grouped_linear_backward(
    grad_RO: Tensor, x_RD: Tensor, weight_EOD: Tensor, offset_E: Tensor
) -> tuple[Tensor, Tensor]:
    grad_x_RD = functional.grouped_mm(grad_RO, weight_EOD, offs=offset_E)
    return grad_x_RD, functional.grouped_mm(grad_RO.mT, x_RD, offs=offset_E)


@_grouped_linear_backward.register_fake
def _(grad_RO: Tensor, x_RD: Tensor, weight_EOD: Tensor, offset_E: Tensor) -> tuple[Tensor, Tensor]:
    return x_RD.new_empty(x_RD.shape), weight_EOD.new_empty(weight_EOD.shape)


def _backward(ctx: Any, grad_RO: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.evenload.grouped_linear_backward(grad_RO.contiguous(), *ctx.saved_tensors)
    return *grads, None


_grouped_linear.register_autograd(
    _backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
)
