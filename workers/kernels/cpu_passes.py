"""Element-wise steps with hand-written derivatives that need few passes over a CPU's memory.

Autograd's composition of these steps reads and writes each activation several times more. At small
widths a CPU spends most of a step there, not in the matrix products. Values and gradients equal
those of the composition up to rounding.
Letters: T tokens, D width, F hidden width, S positions, H heads, P width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def applies_to(x: Tensor) -> bool:
    """True for float32 on a CPU outside of torch.compile, where these passes replace autograd's."""
    return x.device.type == "cpu" and x.dtype is torch.float32 and not torch.compiler.is_compiling()


class RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    A weight of shape (N, D) belongs to N stacked trials, which are the first dimension of x.
    """

    @staticmethod
    def forward(ctx: Any, x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        norm_1 = torch.linalg.vector_norm(x_D, dim=-1, keepdim=True)
        rstd_1 = norm_1.square_().div_(x_D.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_D, weight_D, rstd_1)
        if weight_D.ndim > 1:
            weight_D = weight_D.view(len(weight_D), *[1] * (x_D.ndim - 2), -1)
        return (x_D * rstd_1).mul_(weight_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_D, weight_D, rstd_1 = ctx.saved_tensors
        grad_D = grads[0].contiguous()
        if weight_D.ndim == 1:
            return *_rms_norm_backward(grad_D, x_D, weight_D, rstd_1), None
        parts = map(_rms_norm_backward, grad_D, x_D, weight_D, rstd_1)
        dx_D, dweight_D = (torch.stack(part) for part in zip(*parts, strict=True))
        return dx_D, dweight_D, None


def _rms_norm_backward(
    grad_D: Tensor, x_D: Tensor, weight_D: Tensor, rstd_1: Tensor
) -> tuple[Tensor, Tensor]:
    # With mean 0, a layer norm's derivative is the same minus the mean of the scaled gradient.
    no_mean_1, wanted = torch.zeros_like(rstd_1), [True, True, False]
    dx_D, dweight_D, _ = torch.ops.aten.native_layer_norm_backward(
        grad_D, x_D, weight_D.shape, no_mean_1, rstd_1, weight_D, None, wanted
    )
    mean_1 = torch.matmul(grad_D, weight_D).div_(len(weight_D)).unsqueeze(-1)
    return dx_D.add_(mean_1.mul_(rstd_1)), dweight_D


class SwiGlu(torch.autograd.Function):
    """silu(gate) * up, times an optional weight per row. Keeps only its inputs for backward."""

    @staticmethod
    def forward(ctx: Any, gate_up_TG: Tensor, weight_T: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate_up_TG, weight_T)
        gate_TF, up_TF = gate_up_TG.chunk(2, dim=-1)
        act_TF = functional.silu(gate_TF).mul_(up_TF)
        return act_TF if weight_T is None else act_TF.mul_(weight_T.unsqueeze(-1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate_up_TG, weight_T = ctx.saved_tensors
        gate_TF, up_TF = gate_up_TG.chunk(2, dim=-1)
        silu_TF, grad_TF, dweight_T = functional.silu(gate_TF), grads[0], None
        if weight_T is not None:
            dweight_T = (silu_TF * up_TF).mul_(grad_TF).sum(dim=-1)
            grad_TF = grad_TF * weight_T.unsqueeze(-1)
        grad_gate_up_TG = torch.empty_like(gate_up_TG)
        grad_gate_TF, grad_up_TF = grad_gate_up_TG.chunk(2, dim=-1)
        torch.mul(silu_TF, grad_TF, out=grad_up_TF)
        torch.mul(up_TF, grad_TF, out=silu_TF)
        torch.ops.aten.silu_backward.grad_input(silu_TF, gate_TF, grad_input=grad_gate_TF)
        return grad_gate_up_TG, dweight_T


class RotatedQkv(torch.autograd.Function):
    """Rotates queries and keys by the angles of their positions and returns values unchanged.

    Backward writes the three gradients into one tensor, which the preceding product needs.
    """

    @staticmethod
    def forward(ctx: Any, qkv_S3HP: Tensor, turn_S1P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Repeated per head and side, because rows as short as one head run at half the speed.
        positions, _, pairs = turn_S1P.shape
        turn_S2HP = turn_S1P.unsqueeze(1).expand(positions, 2, qkv_S3HP.shape[-2], pairs)
        turn_S2HP = turn_S2HP.contiguous()
        ctx.save_for_backward(turn_S2HP)
        turned = _as_complex(qkv_S3HP[..., :2, :, :]) * turn_S2HP
        q_SHP, k_SHP = torch.view_as_real(turned).flatten(-2).unbind(dim=-3)
        return q_SHP, k_SHP, qkv_S3HP[..., 2, :, :]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (turn_S2HP,) = ctx.saved_tensors
        grad_S3HP = torch.stack(grads, dim=-3)
        turned = _as_complex(grad_S3HP[..., :2, :, :])
        turned.mul_(turn_S2HP.conj_physical())
        return grad_S3HP, None


def _as_complex(x_P: Tensor) -> Tensor:
    return torch.view_as_complex(x_P.unflatten(-1, (-1, 2)))
