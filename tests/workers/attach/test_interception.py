"""What a router's top-k is answered with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evenload.workers.attach.interception import Selection


def chosen(score_TE: Tensor, bias_E: Tensor | None, top_k: int = 2) -> tuple[Tensor, Tensor]:
    with Selection(score_TE.shape[-1], top_k, bias_E):
        value_TK, expert_TK = score_TE.topk(top_k, dim=-1)
    return value_TK, expert_TK


def test_experts_are_those_of_score_and_bias_and_values_those_of_the_score() -> None:
    score_TE = torch.tensor([[0.1, 0.5, 0.3, 0.2], [0.4, 0.3, 0.2, 0.1]])
    value_TK, expert_TK = chosen(score_TE, torch.tensor([0.0, 0.0, 0.0, 0.25]))
    assert expert_TK.tolist() == [[1, 3], [0, 3]]
    assert torch.equal(value_TK, torch.tensor([[0.5, 0.2], [0.4, 0.1]]))


def test_a_bias_finer_than_bfloat16_decides_between_bfloat16_scores() -> None:
    """4 + 0.001 is 4 in bfloat16, and a rule's steps are of that size."""
    score_TE = torch.full((3, 8), 4.0, dtype=torch.bfloat16)
    bias_E = torch.zeros(8)
    bias_E[5] = 1e-3
    value_TK, expert_TK = chosen(score_TE, bias_E, top_k=1)
    assert expert_TK.tolist() == [[5]] * 3
    assert value_TK.dtype == torch.bfloat16


@pytest.mark.parametrize("call", ["function", "method", "keywords", "three dimensions"])
def test_every_way_to_call_topk_is_answered(call: str) -> None:
    score_TE, bias_E = torch.rand(5, 8), torch.zeros(8)
    bias_E[6] = 2.0
    with Selection(8, 2, bias_E) as selection:
        match call:
            case "function":
                expert = torch.topk(score_TE, 2)[1]
            case "method":
                expert = score_TE.topk(2).indices
            case "keywords":
                expert = torch.topk(score_TE, k=2, dim=1, sorted=False).indices
            case _:
                expert = score_TE.unsqueeze(0).topk(2, dim=-1)[1]
    assert (expert == 6).any(dim=-1).all()
    assert selection.expert_TK is not None
    assert selection.expert_TK.shape == (5, 2)


def test_other_selections_are_left_alone() -> None:
    """Over another number of things, or of another number of them."""
    bias_E = torch.full((8,), 9.0)
    score = torch.rand(4, 6)
    with Selection(8, 2, bias_E) as selection:
        assert torch.equal(score.topk(2)[1], torch.sort(score, descending=True)[1][:, :2])
        torch.rand(4, 8).topk(3)
    assert selection.expert_TK is None


def test_scores_of_groups_are_kept_from_before_the_mask() -> None:
    score_TGM = torch.rand(5, 4, 4)
    with Selection(16, 4) as selection:
        group_TN = score_TGM.topk(2, dim=-1)[0].sum(dim=-1).topk(2, dim=-1)[1]
        mask_TG = torch.ones(5, 4, dtype=torch.bool).scatter(-1, group_TN, False)
        score_TGM.masked_fill(mask_TG.unsqueeze(-1), -torch.inf).flatten(-2).topk(4, dim=-1)
    assert selection.score_TE is not None
    assert torch.equal(selection.score_TE, score_TGM.flatten(-2))
