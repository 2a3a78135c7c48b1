"""Computes the row order of a token choice on the device, without a sort and without the host.

The router counts the experts of every block of tokens. One program per expert then sums the counts
of the blocks before each block, and one program per block places its assignments behind those. No
position comes from an atomic, so the order within an expert is always that of
`rows.rows_of_tokens`.
Letters: T tokens, E experts, K top-k, B blocks of tokens, R rows (assignments), M tiles of rows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from evenload.workers.kernels.tiles import ALWAYS

CELLS_PER_BLOCK = 4096  # cells of the token by expert table that a program holds in registers
BLOCKS_PER_STEP = 1024  # blocks that the sum over blocks adds in one step
TILES_PER_BLOCK = 32


@triton.jit
def sum_kernel(count_EB, before_EB, count_E, B, BLOCK: tl.constexpr):
    """For one expert: its assignments in the blocks before each block, and in all blocks."""
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
    """The row of every assignment in a block of tokens, and the inverse order."""
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
    """Expert, first row and end row of every tile; the expert is -1 past the last tile."""
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
    """A power of two that lets the token by expert table of a block fit into registers."""
    return max(1, min(128, CELLS_PER_BLOCK // triton.next_power_of_2(num_experts)))


def place_rows(expert_TK: Tensor, count_EB: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the rows from the counts of every block of `tokens_per_block` tokens.

    Args:     count_EB: int32, assignments per expert and block
    Returns:  assignment_R (t * K + k for every row), row_TK and count_E, all int64
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


def list_tiles(count_E: Tensor, num_rows: int, tile_rows: int) -> Tensor:
    """Tiles of at most `tile_rows` rows of one expert, int32 (3, M): expert, first row, end row.

    M is large enough for every possible count, so the host need not wait for the counts.
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
