"""The plan against one computed from the logits, as the source does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor


def plan_of(logit_TE: Tensor, iterations: int) -> Tensor:
    cost_TE = logit_TE.double().exp()
    tokens, experts = cost_TE.shape
    token_T1, expert_1E = torch.ones(tokens, 1), torch.ones(1, experts)
    for _ in range(iterations):
        token_T1 = 1 / (tokens * (expert_1E * cost_TE).sum(dim=1, keepdim=True))
        expert_1E = 1 / (experts * (token_T1 * cost_TE).sum(dim=0, keepdim=True))
    return expert_1E * cost_TE * token_T1


@pytest.mark.parametrize("gate", ["sigmoid", "softmax"])
def test_the_plan_is_that_of_the_logits_for_both_gates(lab: SimpleNamespace, gate: str) -> None:
    logit_TE = 2 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    score_TE = logit_TE.sigmoid() if gate == "sigmoid" else logit_TE.softmax(dim=-1)
    found_TE = lab.make("sinkhorn", iterations=20).adjust(score_TE, torch.zeros(8))
    expected_TE = plan_of(logit_TE, 20)
    torch.testing.assert_close(found_TE.double(), expected_TE, rtol=1e-3, atol=1e-7)
