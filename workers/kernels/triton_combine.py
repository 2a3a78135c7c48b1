"""Sums the rows of every token in float32, in a fixed order, without atomics.

Letters: T tokens, K top-k, D width, R rows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from evenload.workers.kernels.tiles import ALWAYS


@triton.jit
def combine_kernel(
    y_RD,
    row_R,
    start_T,
    y_TD,
    T,
    K,
    D,
    LISTED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """With LISTED, start_T has the first row of every token; without it, every token has K rows."""
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    if LISTED:
        start = tl.load(start_T + token, mask=token < T, other=0)
        num_rows = tl.load(start_T + token + 1, mask=token < T, other=0) - start
        most = tl.max(num_rows, axis=0)
    else:
        start = token * K
        num_rows = tl.where(token < T, K, 0)
        most = K
    y = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    for k in range(most):
        row = tl.load(row_R + start + k, mask=k < num_rows, other=0).to(tl.int64)
        inside = (k < num_rows)[:, None] & (column < D)[None, :]
        y += tl.load(y_RD + row[:, None] * D + column[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
    out = y_TD + token.to(tl.int64)[:, None] * D + column[None, :]
    tl.store(out, y.to(y_TD.dtype.element_ty), mask=(token < T)[:, None] & (column < D)[None, :])


def combine(y_RD: Tensor, row_R: Tensor, start_T: Tensor | None, num_tokens: int) -> Tensor:
    """The sum of each token's rows, (T, D) in the dtype of y_RD.

    Args:
        row_R:   the rows of token 0, then those of token 1, and so on
        start_T: the start of each token's rows in row_R, (T + 1,); None: K rows per token
    """
    width = y_RD.shape[1]
    y_TD = y_RD.new_empty(num_tokens, width)
    block = min(1024, triton.next_power_of_2(width))
    tokens = max(1, 1024 // block)
    combine_kernel[(triton.cdiv(num_tokens, tokens), triton.cdiv(width, block))](
        y_RD,
        row_R,
        start_T,
        y_TD,
        num_tokens,
        row_R.numel() // max(1, num_tokens),
        width,
        LISTED=start_T is not None,
        BLOCK_T=tokens,
        BLOCK_D=block,
        **ALWAYS,
    )
    return y_TD


def rows_by_token(token_R: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Rows sorted by token, and the start of each token's rows, for unequal numbers of rows.

    One more sort costs little, because an expert choice has sorted every score already.
    """
    sorted_R, row_R = token_R.sort(stable=True)
    token_T = torch.arange(num_tokens + 1, device=token_R.device)
    return row_R, torch.searchsorted(sorted_R, token_T)
