"""The experts with torch's grouped matrix product: three passes over the rows, no Python loop.

The rows are sorted by expert, so one `grouped_linear` multiplies each by its expert's matrix. No
code here waits for the device, and no control flow depends on values.
Letters: T tokens, E experts, K top-k, D width, F expert width, G = 2F gate and up, R rows.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evenload.workers.kernels import cpu_passes
from evenload.workers.kernels.backends import check_torch_widths
from evenload.workers.kernels.grouped_linear import grouped_linear
from evenload.workers.kernels.rows import Rows


def run_experts(x_TD: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor, rows: Rows) -> Tensor:
    """The function that `reference.run_experts` defines, in autocast's dtype if autocast is on.

    The gate weight multiplies the F-wide activation instead of the D-wide output. The sum is the
    same, it is cheaper if F < D, and the gradient of the weight needs no output row.

    Raises:   SpecError: grouped_mm cannot compute this d_model or d_expert
    """
    dtype = compute_dtype(x_TD)
    check_torch_widths(down_EDF.shape[1], down_EDF.shape[2], dtype.itemsize)
    offset_E = rows.count_E.cumsum(0, dtype=torch.int32)
    x_RD = _Spread.apply(x_TD.to(dtype), rows.token_R, rows.row_TK)
    gate_up_RG = grouped_linear(x_RD, gate_up_EGD.to(dtype), offset_E)
    act_RF = _weighted_swiglu(gate_up_RG, rows.weight_R)
    y_RD = grouped_linear(act_RF, down_EDF.to(dtype), offset_E)
    y_TD: Tensor = _Collect.apply(y_RD, rows.token_R, rows.row_TK, x_TD.shape[0])
    return y_TD.to(x_TD.dtype)


def _weighted_swiglu(gate_up_RG: Tensor, weight_R: Tensor) -> Tensor:
    """Computed in float32 and rounded once, because multiplying in bf16 loses two digits."""
    if cpu_passes.applies_to(gate_up_RG):
        return cpu_passes.SwiGlu.apply(gate_up_RG, weight_R)
    gate_RF, up_RF = gate_up_RG.float().chunk(2, dim=-1)
    return (functional.silu(gate_RF) * up_RF * weight_R[:, None]).to(gate_up_RG.dtype)


class _Spread(torch.autograd.Function):
    """Copies each token to its rows. The gradient is the sum over the rows."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, token_R: Tensor, row_TK: Tensor | None) -> Tensor:
        ctx.save_for_backward(token_R, row_TK)
        ctx.num_tokens = x_TD.shape[0]
        return x_TD.index_select(0, token_R)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        token_R, row_TK = ctx.saved_tensors
        return _sum_rows(grads[0], token_R, row_TK, ctx.num_tokens), None, None


class _Collect(torch.autograd.Function):
    """Sums the rows of each token. The gradient is copied to the rows.

    The copy is always contiguous: grouped_mm refuses an expanded gradient such as that of
    `y.sum().backward()`.
    """

    @staticmethod
    def forward(
        ctx: Any, y_RD: Tensor, token_R: Tensor, row_TK: Tensor | None, num_tokens: int
    ) -> Tensor:
        ctx.save_for_backward(token_R)
        return _sum_rows(y_RD, token_R, row_TK, num_tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (token_R,) = ctx.saved_tensors
        return grads[0].index_select(0, token_R), None, None, None


def _sum_rows(y_RD: Tensor, token_R: Tensor, row_TK: Tensor | None, num_tokens: int) -> Tensor:
    """The sum of each token's rows, (T, D), added in float32.

    A token choice adds in a fixed order and reruns are bit-equal; an expert choice on CUDA is not.
    """
    if row_TK is not None:
        # An embedding bag gathers and sums in one pass, 5x faster than y_RD[row_TK].sum(1).
        return functional.embedding_bag(row_TK, y_RD, mode="sum")
    y_TD = y_RD.new_zeros(num_tokens, y_RD.shape[-1], dtype=torch.float32)
    return y_TD.index_add_(0, token_R, y_RD.float()).to(y_RD.dtype)


def compute_dtype(x_TD: Tensor) -> torch.dtype:
    """Autocast's dtype if it is on: autocast does not know grouped_mm (torch 2.13)."""
    device = x_TD.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_TD.dtype
