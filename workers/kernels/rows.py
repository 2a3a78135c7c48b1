"""Routed rows: which token goes to which expert with which weight, sorted by expert.

Token choice and expert choice give the same kind of rows, so every back end supports both.
Letters: T tokens, E experts, K top-k, R rows (assignments), C rows of one expert.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """All assignments of one layer: first those of expert 0, then those of expert 1, and so on."""

    token_R: Tensor  # int64
    weight_R: Tensor  # float32, with gradient
    count_E: Tensor  # int64, rows per expert; sums to R
    row_TK: Tensor | None  # int64, the rows of each token; None if tokens have unequal numbers


def count_experts(expert_TK: Tensor, num_experts: int) -> Tensor:
    """Assignments per expert, int64 (E,). Unlike bincount it does not wait for the device."""
    expert_R = expert_TK.flatten()
    count_E = expert_R.new_zeros(num_experts)
    return count_E.scatter_add_(0, expert_R, torch.ones_like(expert_R))


def rows_of_tokens(expert_TK: Tensor, weight_TK: Tensor, count_E: Tensor) -> Rows:
    """The rows of a token choice. Those of one expert are in the order of their tokens."""
    order_R = expert_TK.flatten().argsort(stable=True)
    position_R = torch.arange(order_R.numel(), device=order_R.device)
    row_R = torch.empty_like(order_R).scatter_(0, order_R, position_R)
    return Rows(
        token_R=order_R // expert_TK.shape[-1],
        weight_R=weight_TK.flatten().gather(0, order_R),
        count_E=count_E,
        row_TK=row_R.view_as(expert_TK),
    )


def rows_per_expert(num_rows: int, num_experts: int) -> list[int]:
    """Number of rows that each expert takes in an expert choice: equal shares in whole rows."""
    share, remainder = divmod(num_rows, num_experts)
    return [share + (expert < remainder) for expert in range(num_experts)]
