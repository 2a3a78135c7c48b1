from __future__ import annotations

import pytest
import torch

from evenload.workers.kernels import triton_rows
from evenload.workers.kernels.rows import count_experts, rows_of_tokens


def place_rows(expert_TK: torch.Tensor, experts: int) -> tuple[torch.Tensor, ...]:
    """Rows from counts as the router kernel makes them."""
    blocks = expert_TK.split(triton_rows.tokens_per_block(experts))
    count_EB = torch.stack([count_experts(block, experts) for block in blocks], dim=1).int()
    return triton_rows.place_rows(expert_TK, count_EB)


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"), [(1, 1, 1), (130, 3, 2), (70, 33, 4), (5, 4, 4)]
)
def test_rows_are_in_the_order_of_a_stable_sort(tokens: int, experts: int, top_k: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    expert_TK = torch.rand(tokens, experts, generator=generator).topk(top_k).indices
    assignment_R, row_TK, count_E = place_rows(expert_TK, experts)
    expected = rows_of_tokens(
        expert_TK, torch.ones(tokens, top_k), count_experts(expert_TK, experts)
    )
    assert torch.equal(count_E, expected.count_E)
    assert torch.equal(row_TK, expected.row_TK)
    assert torch.equal(assignment_R // top_k, expected.token_R)


def test_a_token_may_name_an_expert_twice() -> None:
    expert_TK = torch.tensor([[2, 2, 0], [2, 1, 2]])
    assignment_R, row_TK, count_E = place_rows(expert_TK, 3)
    assert assignment_R.tolist() == [2, 4, 0, 1, 3, 5]
    assert row_TK.tolist() == [[2, 3, 0], [4, 1, 5]]
    assert count_E.tolist() == [1, 1, 4]


def test_the_sum_goes_on_past_one_step_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program sums 1024 blocks in one step; small blocks and steps need few tokens."""
    monkeypatch.setattr(triton_rows, "CELLS_PER_BLOCK", 1)
    monkeypatch.setattr(triton_rows, "BLOCKS_PER_STEP", 4)
    expert_TK = torch.arange(11)[:, None] % 2
    assignment_R, _, count_E = place_rows(expert_TK, 2)
    assert assignment_R.tolist() == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9]
    assert count_E.tolist() == [6, 5]


def test_tiles_cover_every_row_once_and_end_with_their_expert() -> None:
    count_E = torch.tensor([5, 0, 8, 1, 0, 16])
    tile_3M = triton_rows.list_tiles(count_E, 30, 8)
    tiles = [tuple(tile) for tile in tile_3M.T.tolist() if tile[0] >= 0]
    assert tiles == [(0, 0, 5), (2, 5, 13), (3, 13, 14), (5, 14, 30), (5, 22, 30)]
    assert tile_3M.shape[1] >= len(tiles)


@pytest.mark.parametrize("count", [[7, 0, 0], [1, 1, 1], [9, 9, 9], [0, 0, 0]])
def test_there_is_always_room_for_the_tiles(count: list[int]) -> None:
    count_E = torch.tensor(count)
    tile_3M = triton_rows.list_tiles(count_E, sum(count), 8)
    needed = sum(-(-rows // 8) for rows in count)
    assert int((tile_3M[0] >= 0).sum()) == needed
