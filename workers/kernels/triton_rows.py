"""Row order of a token choice, made on the device: no sort, no wait for the host.

Three launches: blocks of tokens count their experts, one program an expert sums the counts of the
blocks before each block, and blocks place their assignments behind those. The order within an
expert is that of `rows.rows_of_tokens`, whatever ran first: no position comes from an atomic.
Letters: T tokens, E experts, K top-k, B blocks of tokens, R rows (assignments), M tiles of rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from evenload.workers.kernels.rows import Rows
from evenload.workers.kernels.tiles import ALWAYS

CELLS_PER_BLOCK = 4096  # of the token by expert table that a program holds in registers
BLOCKS_PER_STEP = 1024  # of the sum over blocks
TILES_PER_BLOCK = 32


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


@triton.jit
def sum_kernel(count_EB, before_EB, count_E, B, BLOCK: tl.constexpr):
    """For one expert, the assignments in all blocks before each block, and in all of them."""
    expert = tl.program_id(0)
    total = 0
    for start in range(0, B, BLOCK):
        block = start + tl.arange(0, BLOCK)
        count = tl.load(count_EB + expert * B + block, mask=block < B, other=0)
        before = total + tl.cumsum(count, axis=0) - count
        tl.store(before_EB + expert * B + block, before, mask=block < B)
        total += tl.sum(count, axis=0)
    tl.store(count_E + expert, total.to(tl.int64))


@triton.jit
def place_kernel(
    expert_TK,
    before_EB,
    count_E,
    assignment_R,
    row_TK,
    T,
    E,
    K,
    BLOCK: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    """The row of every assignment of a block of tokens, and its inverse."""
    block = tl.program_id(0)
    token = block * BLOCK + tl.arange(0, BLOCK)
    expert = tl.arange(0, EXPERTS)
    chosen_BE = tl.zeros((BLOCK, EXPERTS), tl.int32)
    for k in range(K):
        chosen = tl.load(expert_TK + token * K + k, mask=token < T, other=-1)
        chosen_BE += (chosen[:, None] == expert[None, :]).to(tl.int32)
    before = tl.load(before_EB + expert * tl.num_programs(0) + block, mask=expert < E, other=0)
    next_BE = before[None, :] + tl.cumsum(chosen_BE, axis=0) - chosen_BE
    next_BE += _first_row(count_E, expert, E)[None, :]
    for k in range(K):
        assignment = token * K + k
        chosen = tl.load(expert_TK + assignment, mask=token < T, other=-1)
        hit_BE = (chosen[:, None] == expert[None, :]).to(tl.int32)
        row = tl.sum(hit_BE * next_BE, axis=1)
        next_BE += hit_BE
        tl.store(assignment_R + row, assignment.to(tl.int64), mask=token < T)
        tl.store(row_TK + assignment, row.to(tl.int64), mask=token < T)


@triton.jit
def tile_kernel(
    count_E, tile_3M, M, E, TILE: tl.constexpr, BLOCK: tl.constexpr, EXPERTS: tl.constexpr
):
    """Expert, first row and end row of every tile; expert -1 past the last tile."""
    tile = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.arange(0, EXPERTS)
    count = tl.load(count_E + expert, mask=expert < E, other=0).to(tl.int32)
    num_tiles = (count + TILE - 1) // TILE
    end_tile = tl.cumsum(num_tiles, axis=0)
    end_row = tl.cumsum(count, axis=0)
    owner = tl.sum((end_tile[None, :] <= tile[:, None]).to(tl.int32), axis=1)
    own_BE = (owner[:, None] == expert[None, :]).to(tl.int32)
    within = tile - tl.sum(own_BE * (end_tile - num_tiles)[None, :], axis=1)
    end = tl.sum(own_BE * end_row[None, :], axis=1)
    first = tl.sum(own_BE * (end_row - count)[None, :], axis=1) + within * TILE
    tl.store(tile_3M + tile, tl.where(owner < E, owner, -1), mask=tile < M)
    tl.store(tile_3M + M + tile, first, mask=tile < M)
    tl.store(tile_3M + 2 * M + tile, end, mask=tile < M)


@triton.jit
def _first_row(count_E, expert, E):
    count = tl.load(count_E + expert, mask=expert < E, other=0).to(tl.int32)
    return tl.cumsum(count, axis=0) - count


def tokens_per_block(num_experts: int) -> int:
    """A power of two, so that a block's token by expert table fits into registers."""
    return max(1, min(128, CELLS_PER_BLOCK // triton.next_power_of_2(num_experts)))


def rows_of_tokens(expert_TK: Tensor, weight_TK: Tensor, num_experts: int) -> Rows:
    """What `rows.rows_of_tokens` gives, with the counts made on the way."""
    assignment_R, row_TK, count_E = place_rows(expert_TK, count_blocks(expert_TK, num_experts))
    weight_R = weight_TK.flatten().gather(0, assignment_R)
    return Rows(assignment_R // expert_TK.shape[1], weight_R, count_E, row_TK)


def place_rows(expert_TK: Tensor, count_EB: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows from the counts of every block of `tokens_per_block` tokens.

    Returns:  assignment_R (t * K + k of every row), row_TK and count_E, all int64
    """
    (tokens, top_k), (experts, blocks) = expert_TK.shape, count_EB.shape
    before_EB = torch.empty_like(count_EB)
    count_E = expert_TK.new_empty(experts)
    sum_kernel[(experts,)](count_EB, before_EB, count_E, blocks, BLOCK=BLOCKS_PER_STEP, **ALWAYS)
    assignment_R, row_TK = expert_TK.new_empty(tokens * top_k), torch.empty_like(expert_TK)
    place_kernel[(blocks,)](
        expert_TK,
        before_EB,
        count_E,
        assignment_R,
        row_TK,
        tokens,
        experts,
        top_k,
        BLOCK=tokens_per_block(experts),
        EXPERTS=triton.next_power_of_2(experts),
        **ALWAYS,
    )
    return assignment_R, row_TK, count_E


def count_blocks(expert_TK: Tensor, num_experts: int) -> Tensor:
    """Assignments per expert and block of tokens, int32 (E, B)."""
    tokens, top_k = expert_TK.shape
    block = tokens_per_block(num_experts)
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
    return count_EB


def list_tiles(count_E: Tensor, num_rows: int, tile_rows: int) -> Tensor:
    """Tiles of at most `tile_rows` rows of one expert, int32 (3, M): expert, first row, end row.

    M is the largest number that any counts could need, so nobody waits for the counts.
    """
    experts = len(count_E)
    most = num_rows // tile_rows + min(experts, num_rows)
    tile_3M = count_E.new_empty(3, most, dtype=torch.int32)
    tile_kernel[(triton.cdiv(most, TILES_PER_BLOCK),)](
        count_E,
        tile_3M,
        most,
        experts,
        TILE=tile_rows,
        BLOCK=TILES_PER_BLOCK,
        EXPERTS=triton.next_power_of_2(experts),
        **ALWAYS,
    )
    return tile_3M
