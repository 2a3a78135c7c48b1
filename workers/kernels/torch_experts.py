"""The experts on torch's grouped matrix product: three passes over the rows, no Python loop.

Rows of all experts lie one after the other, so one `grouped_linear` multiplies each by its expert's
matrix. Nothing here waits for the device or depends on values in its control flow.
Letters: T tokens, E experts, K top-k, D width, F expert width, G = 2F gate and up, R rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evenload.pipeline.errors import SpecError
from evenload.workers.kernels import cpu_passes
from evenload.workers.kernels.grouped_linear import grouped_linear
from evenload.workers.kernels.rows import Rows

ALIGNMENT_BYTES = 16  # grouped_mm wants the strides of its matrices to be multiples of this


def run_experts(x_TD: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor, rows: Rows) -> Tensor:
    """What `reference.run_experts` defines, in the dtype of autocast where that is on.

    The gate weight multiplies the F-wide activation instead of the D-wide output: the same sum,
    cheaper where F < D, and its gradient needs no output row.

    Raises:   SpecError: d_model or d_expert that grouped_mm cannot take
    """
    dtype = compute_dtype(x_TD)
    check_widths(down_EDF.shape[1], down_EDF.shape[2], dtype)
    offset_E = rows.count_E.cumsum(0, dtype=torch.int32)
    x_RD = _Spread.apply(x_TD.to(dtype), rows.token_R, rows.row_TK)
    gate_up_RG = grouped_linear(x_RD, gate_up_EGD.to(dtype), offset_E)
    act_RF = _weighted_swiglu(gate_up_RG, rows.weight_R)
    y_RD = grouped_linear(act_RF, down_EDF.to(dtype), offset_E)
    y_TD: Tensor = _Collect.apply(y_RD, rows.token_R, rows.row_TK, x_TD.shape[0])
    return y_TD.to(x_TD.dtype)


def _weighted_swiglu(gate_up_RG: Tensor, weight_R: Tensor) -> Tensor:
    """In float32 and rounded once: gate weights multiplied in bf16 lose two digits."""
    if cpu_passes.applies_to(gate_up_RG):
        act_RF: Tensor = cpu_passes.SwiGlu.apply(gate_up_RG, weight_R)
        return act_RF
    gate_RF, up_RF = gate_up_RG.float().chunk(2, dim=-1)
    return (functional.silu(gate_RF) * up_RF * weight_R[:, None]).to(gate_up_RG.dtype)


class _Spread(torch.autograd.Function):
    """Copies each token to its rows; the gradient is the sum over the rows."""

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
    """Sums the rows of each token; the gradient is copied to the rows.

    The copy is contiguous whatever comes in: grouped_mm refuses an expanded gradient, which is
    what `y.sum().backward()` gives.
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
    """(T, D); sums are taken in float32, those of a token choice in a fixed order: reruns are
    bit-equal. An expert choice on CUDA adds in any order."""
    if row_TK is not None:
        # An embedding bag is a gather and a sum in one pass: 5x faster than y_RD[row_TK].sum(1).
        return functional.embedding_bag(row_TK, y_RD, mode="sum")
    y_TD = y_RD.new_zeros(num_tokens, y_RD.shape[-1], dtype=torch.float32)
    return y_TD.index_add_(0, token_R, y_RD.float()).to(y_RD.dtype)


def compute_dtype(x_TD: Tensor) -> torch.dtype:
    """grouped_mm is unknown to autocast (torch 2.13), so its dtype is applied here."""
    device = x_TD.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_TD.dtype


def check_widths(d_model: int, d_expert: int, dtype: torch.dtype) -> None:
    """Raises: SpecError: grouped_mm cannot take a width in this dtype"""
    step = ALIGNMENT_BYTES // dtype.itemsize
    for name, width in (("d_model", d_model), ("d_expert", d_expert)):
        if width % step:
            raise SpecError(
                f"model.{name}={width}: the torch back end needs a multiple of {step} in "
                f"{str(dtype).removeprefix('torch.')}; use {width + -width % step} or "
                "runtime.backend: reference"
            )
