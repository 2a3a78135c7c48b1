from __future__ import annotations

import torch

from evenload.workers.kernels.rows import count_experts, rows_of_tokens, rows_per_expert


def test_counts_are_integers_and_sum_to_all_assignments() -> None:
    expert_TK = torch.tensor([[0, 2], [2, 3], [2, 0]])
    count_E = count_experts(expert_TK, 5)
    assert count_E.tolist() == [2, 0, 3, 1, 0]
    assert count_E.dtype == torch.int64


def test_a_count_beyond_the_reach_of_bf16_is_exact() -> None:
    assert count_experts(torch.full((10_001, 1), 3), 4).tolist() == [0, 0, 0, 10_001]


def test_rows_are_sorted_by_expert_and_then_by_token() -> None:
    expert_TK = torch.tensor([[2, 0], [0, 1], [2, 1]])
    weight_TK = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    rows = rows_of_tokens(expert_TK, weight_TK, count_experts(expert_TK, 3))
    assert rows.token_R.tolist() == [0, 1, 1, 2, 0, 2]
    torch.testing.assert_close(rows.weight_R, torch.tensor([0.2, 0.3, 0.4, 0.6, 0.1, 0.5]))
    assert rows.row_TK is not None
    assert rows.row_TK.tolist() == [[4, 0], [1, 2], [5, 3]]


def test_every_row_is_found_from_its_token_and_back() -> None:
    expert_TK = torch.rand(50, 9, generator=torch.Generator().manual_seed(0)).topk(4).indices
    rows = rows_of_tokens(expert_TK, torch.rand(50, 4), count_experts(expert_TK, 9))
    assert rows.row_TK is not None
    assert torch.equal(rows.token_R[rows.row_TK], torch.arange(50)[:, None].expand(50, 4))
    expert_R = torch.arange(9).repeat_interleave(rows.count_E)
    assert torch.equal(expert_R[rows.row_TK], expert_TK)


def test_rows_per_expert_are_equal_shares_that_sum_to_all_rows() -> None:
    assert rows_per_expert(12, 4) == [3, 3, 3, 3]
    assert rows_per_expert(14, 4) == [4, 4, 3, 3]
    assert rows_per_expert(2, 4) == [1, 1, 0, 0]
