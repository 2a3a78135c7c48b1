from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evenload.workers.balancing.margins import (
    NUM_BINS,
    SMALLEST,
    bias_change,
    boundary,
    edges,
    margin_counts,
    margins,
    num_tokens,
)


def test_scores_that_are_not_numbers_count_as_ties_and_raise_nothing() -> None:
    score_TE = torch.rand(64, 8, generator=torch.Generator().manual_seed(0))
    score_TE[3] = torch.nan
    count_E2B = margin_counts(score_TE, torch.zeros(8), 2)
    assert (count_E2B.sum(dim=(-1, -2)) == 64).all()


def test_margin_of_a_chosen_expert_counts_from_the_first_left_out() -> None:
    score = torch.tensor([[0.9, 0.5, 0.4, 0.1]])
    margin = margins(score, torch.zeros(4), 2)
    assert margin[0].tolist() == pytest.approx([0.5, 0.1, -0.1, -0.4])


@pytest.mark.parametrize("top_k", [1, 2, 7])
def test_a_bias_change_beyond_the_margin_and_no_less_changes_the_choice(top_k: int) -> None:
    torch.manual_seed(0)
    score, bias = torch.rand(64, 8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    margin = margins(score, bias, top_k)
    for expert in range(8):
        for factor, flips in ((0.999, False), (1.001, True)):
            nudged = score.clone()
            nudged[:, expert] -= factor * margin[:, expert]
            before = (score.topk(top_k).indices == expert).any(dim=-1)
            after = (nudged.topk(top_k).indices == expert).any(dim=-1)
            assert ((before != after) == flips).all()


@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_counts_add_up_to_tokens_and_loads(top_k: int) -> None:
    torch.manual_seed(0)
    score, bias = torch.rand(500, 8), torch.linspace(-0.2, 0.2, 8)
    count = margin_counts(score, bias, top_k)
    load = (score + bias).topk(top_k).indices.flatten().bincount(minlength=8)
    assert count.sum(dim=(-1, -2)).tolist() == [500] * 8
    assert count[:, 0].sum(dim=-1).tolist() == load.tolist()
    assert num_tokens(count[None]).tolist() == [[500.0]]


def test_leading_dimensions_are_free() -> None:
    torch.manual_seed(0)
    score, bias = torch.rand(3, 100, 8), torch.rand(3, 1, 8)
    stacked = margin_counts(score, bias, 2)
    for seed in range(3):
        assert torch.equal(stacked[seed], margin_counts(score[seed], bias[seed, 0], 2))


def test_extreme_margins_fall_into_the_outer_bins() -> None:
    score = torch.tensor([[1e9, 0.5, 0.5, -1e9]])
    count = margin_counts(score, torch.zeros(4), 2)
    assert count[0, 0, NUM_BINS - 1] == 1
    assert count[1, 1, 0] + count[1, 0, 0] == 1  # a tie counts on one side only
    assert count[3, 1, NUM_BINS - 1] == 1


def test_bins_grow_by_a_ratio_from_the_smallest_margin() -> None:
    edge = edges(torch.device("cpu"))
    assert edge[0] == 0
    assert edge[1] == SMALLEST
    assert (edge[2:] / edge[1:-1]).tolist() == pytest.approx([2**0.5] * (NUM_BINS - 1))


@pytest.mark.parametrize("wanted", [-60.0, -5.0, 5.0, 60.0])
def test_the_bias_change_adds_the_wanted_number_of_tokens(wanted: float) -> None:
    torch.manual_seed(0)
    score, bias = torch.rand(4000, 8), torch.zeros(8)
    before = score.topk(2).indices.flatten().bincount(minlength=8)
    delta = bias_change(margin_counts(score, bias, 2)[None], torch.full((1, 8), wanted))[0]
    for expert in range(8):
        moved = score.clone()
        moved[:, expert] += delta[expert]
        after = moved.topk(2).indices.flatten().bincount(minlength=8)
        assert float(after[expert] - before[expert]) == pytest.approx(wanted, abs=8)


@pytest.mark.parametrize("gate", ["sigmoid", "softmax"])
def test_curvature_is_the_slope_of_the_load(lab: SimpleNamespace, gate: str) -> None:
    score = lab.scores(0, layers=1, tokens=100_000, gate=gate)[0]
    slope = boundary(margin_counts(score, torch.zeros(8), 2)[None], 0.1).density_LE[0]
    width = 0.02 if gate == "sigmoid" else 0.005
    for expert in range(6):
        loads = []
        for delta in (-width, width):
            moved = score.clone()
            moved[:, expert] += delta
            loads.append(int((moved.topk(2).indices == expert).sum()))
        measured = (loads[1] - loads[0]) / (2 * width)
        assert float(slope[expert]) == pytest.approx(measured, rel=0.12)


def test_curvature_follows_the_scale_of_the_scores() -> None:
    torch.manual_seed(0)
    score = torch.rand(5000, 8)
    unit = boundary(margin_counts(score, torch.zeros(8), 2)[None], 0.5).density_LE
    small = boundary(margin_counts(score / 1024, torch.zeros(8), 2)[None], 0.5).density_LE
    assert (small / unit).flatten().tolist() == pytest.approx([1024] * 8, rel=1e-3)


def test_an_expert_without_a_token_nearby_can_still_be_moved() -> None:
    score = torch.rand(500, 8)
    score[:, 0] = -30
    slope = boundary(margin_counts(score, torch.zeros(8), 2)[None], 0.5).density_LE[0]
    assert float(slope[0]) == pytest.approx(0.05 * float(slope[1:].sum()) / 8, rel=0.01)


@pytest.mark.parametrize("padding", [0, 3])
def test_padding_leaves_the_counts_alone(padding: int) -> None:
    """Eight tokens and eight experts: a mask that broadcast along the wrong side would fit."""
    score = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([score, torch.rand(padding, 8)])
    valid = torch.arange(len(padded)) < 8
    counts = margin_counts(score, torch.zeros(8), 2)
    assert torch.equal(margin_counts(padded, torch.zeros(8), 2, valid), counts)


def test_scores_that_all_tie_move_no_bias_far() -> None:
    """A router that starts with weights of zero sends every token to the same experts."""
    count = margin_counts(torch.full((64, 8), 0.5), torch.zeros(8), 2)[None]
    wanted = torch.tensor([[-48.0, -48.0, *[16.0] * 6]])
    assert bias_change(count, wanted).abs().max() <= SMALLEST
