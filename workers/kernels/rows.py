"""Routed rows: which token goes to which expert with which weight, sorted by expert.

Token choice and expert choice end in the same rows, so every back end serves both.
Letters: T tokens, E experts, K top-k, R rows (assignments), C rows of one expert.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """All assignments of one layer: first those of expert 0, then those of expert 1, ..."""

    token_R: Tensor  # int64
    weight_R: Tensor  # float32, with gradient
    count_E: Tensor  # int64, rows per expert; sums to R
    row_TK: Tensor | None  # int64, the rows of each token; None where tokens differ in number


def count_experts(expert_TK: Tensor, num_experts: int) -> Tensor:
    """Assignments per expert, int64 (E,). No wait for the device, unlike bincount."""
    expert_R = expert_TK.flatten()
    count_E = expert_R.new_zeros(num_experts)
    return count_E.scatter_add_(0, expert_R, torch.ones_like(expert_R))


def rows_of_tokens(expert_TK: Tensor, weight_TK: Tensor, count_E: Tensor) -> Rows:
    """Rows of a token choice. The rows of an expert are in the order of their tokens."""
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
    """Room of each expert in an expert choice: the fair share, to the nearest whole row."""
    share, remainder = divmod(num_rows, num_experts)
    return [share + (expert < remainder) for expert in range(num_experts)]


def rows_of_experts(token_R: Tensor, weight_R: Tensor, count_E: Tensor) -> Rows:
    """Rows of an expert choice: a token may have any number of them."""
    return Rows(token_R, weight_R, count_E, row_TK=None)
