"""The row order of a token choice that is already made, on the kernels of `triton_rows`.

In training the router kernel counts the experts; a benchmark of the expert layer starts after it.
Letters: T tokens, E experts, K top-k, B blocks of tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from evenload.workers.kernels.rows import Rows
from evenload.workers.kernels.tiles import ALWAYS
from evenload.workers.kernels.triton_rows import place_rows, tokens_per_block


def rows_of_tokens(expert_TK: Tensor, weight_TK: Tensor, num_experts: int) -> Rows:
    """The same as `evenload.workers.kernels.rows.rows_of_tokens`, without a sort."""
    (tokens, top_k), block = expert_TK.shape, tokens_per_block(num_experts)
    blocks = triton.cdiv(tokens, block)
    count_EB = expert_TK.new_empty(num_experts, blocks, dtype=torch.int32)
    count_kernel[(blocks,)](
        expert_TK,
        count_EB,
        tokens,
        num_experts,
        top_k,
        BLOCK=block,
        EXPERTS=triton.next_power_of_2(num_experts),
        **ALWAYS,
    )
    assignment_R, row_TK, count_E = place_rows(expert_TK, count_EB)
    weight_R = weight_TK.flatten().gather(0, assignment_R)
    return Rows(assignment_R // top_k, weight_R, count_E, row_TK)


@triton.jit
def count_kernel(expert_TK, count_EB, T, E, K, BLOCK: tl.constexpr, EXPERTS: tl.constexpr):
    """Assignments of each expert in a block of tokens."""
    block = tl.program_id(0)
    token = block * BLOCK + tl.arange(0, BLOCK)
    expert = tl.arange(0, EXPERTS)
    count = tl.zeros((EXPERTS,), tl.int32)
    for k in range(K):
        chosen = tl.load(expert_TK + token * K + k, mask=token < T, other=-1)
        count += tl.sum((chosen[:, None] == expert[None, :]).to(tl.int32), axis=0)
    tl.store(count_EB + expert * tl.num_programs(0) + block, count, mask=expert < E)
