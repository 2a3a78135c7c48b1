"""Margins: how far each token is from a changed choice of each expert, counted in log-spaced bins.

The margin of expert k for token i is its biased score v_ik minus the score it competes with: the
largest score that was not chosen if k was chosen, otherwise the smallest score that was. So k is
chosen iff its margin is positive, and A_k(delta) = #{i: m_ik > -delta} is the load after a change
of b_k alone by delta. Bins with a constant ratio fit every gate without a width to choose.

Letters: T tokens, E experts, L layers, K top-k, B bins by distance from the boundary, outward.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evenload.workers.balancing.base import Measure
from evenload.workers.selection import Bins

SMALLEST = 2.0**-22  # units of the score; below it a margin counts as a tie
BINS_PER_OCTAVE = 2
OCTAVES = 27  # up to a margin of 32; larger ones count in the last bin
NUM_BINS = OCTAVES * BINS_PER_OCTAVE + 1


def margins(score_TE: Tensor, bias_E: Tensor, top_k: int) -> Tensor:
    """Signed margin of every token and expert, shape (..., T, E); positive iff chosen.

    The margins are infinite if every expert is chosen: there is no boundary then.
    """
    biased_TE = score_TE + bias_E
    if top_k == biased_TE.shape[-1]:
        return torch.full_like(biased_TE, torch.inf)
    top_TK = biased_TE.topk(top_k + 1, dim=-1).values
    last_in_T1, first_out_T1 = top_TK[..., -2:-1], top_TK[..., -1:]
    chosen_TE = biased_TE >= last_in_T1
    return biased_TE - torch.where(chosen_TE, first_out_T1, last_in_T1)


def margin_counts(
    score_TE: Tensor, bias_E: Tensor, top_k: int, valid_T: Tensor | None = None
) -> Tensor:
    """Number of tokens by distance from the boundary: int64 (..., E, 2, B), chosen ones first.

    Integers add up exactly over micro-batches and ranks. The sum over both halves and B is the
    number of tokens; the sum over B of the chosen half is the load.
    """
    margin_TE = margins(score_TE.float(), bias_E, top_k)
    num_experts = margin_TE.shape[-1]
    left_out_TE = torch.where(margin_TE <= 0, float(NUM_BINS), 0.0)
    octave_TE = margin_TE.abs_().div_(SMALLEST).log2_().mul_(BINS_PER_OCTAVE)
    # Clamp before the cast: the logarithm is -inf for a tie and +inf for an infinite margin. Scores
    # that are not finite count as ties, and the loss, which is not finite either, stops the trial.
    bin_TE = octave_TE.floor_().add_(1).nan_to_num_(0.0).clamp_(0, NUM_BINS - 1)
    # Cells are numbered in float32, which is exact below 2^24, because int64 takes twice as long.
    first_E = torch.arange(num_experts, device=margin_TE.device) * (2.0 * NUM_BINS)
    cell_TE = bin_TE.add_(left_out_TE).add_(first_E).long()
    return tokens_by_cell(cell_TE, valid_T, num_experts, 2, NUM_BINS)


def tokens_by_cell(cell_TE: Tensor, valid_T: Tensor | None, *shape: int) -> Tensor:
    """Number of tokens in each cell of a table, without padding: int64 (..., *shape)."""
    one = cell_TE.new_ones(()) if valid_T is None else valid_T.long().unsqueeze(-1)
    cell_N, weight_N = cell_TE.flatten(-2), one.expand_as(cell_TE).flatten(-2)
    count_N = cell_N.new_zeros(*cell_N.shape[:-1], math.prod(shape))
    return count_N.scatter_add_(-1, cell_N, weight_N).unflatten(-1, shape)


MARGIN_COUNTS = Measure(margin_counts, "sum", Bins(NUM_BINS, SMALLEST, BINS_PER_OCTAVE))


def edges(device: torch.device) -> Tensor:
    """The edges of the bins as distances from the boundary, float32, shape (B + 1,)."""
    exponent = torch.arange(NUM_BINS, device=device) / BINS_PER_OCTAVE + math.log2(SMALLEST)
    return torch.cat([exponent.new_zeros(1), exponent.exp2()])


def num_tokens(count_LE2B: Tensor) -> Tensor:
    """Tokens of the step, float32, shape (L, 1). Every token has one margin per expert."""
    return count_LE2B[:, :1].sum(dim=(-1, -2)).to(torch.float32)


def bias_change(count_LE2B: Tensor, wanted_LE: Tensor) -> Tensor:
    """The change of each bias that alone would add `wanted_LE` assignments, shape (L, E).

    The result has the sign of `wanted_LE`. It is linear within a bin, and the outermost edge where
    there are too few tokens.
    """
    gain_LE1 = (wanted_LE > 0).unsqueeze(-1)
    count_LEB = torch.where(gain_LE1, count_LE2B[..., 1, :], count_LE2B[..., 0, :])
    within_LEB = count_LEB.to(torch.float32).cumsum(dim=-1)
    edge_B = edges(count_LEB.device)
    need_LE1 = wanted_LE.abs().unsqueeze(-1)
    last_LE1 = (within_LEB < need_LE1).sum(dim=-1, keepdim=True).clamp_max(NUM_BINS - 1)
    upper_LE1, inside_LE1 = within_LEB.gather(-1, last_LE1), count_LEB.gather(-1, last_LE1)
    part_LE1 = (need_LE1 - (upper_LE1 - inside_LE1)) / inside_LE1.clamp_min(1)
    near_LE1, far_LE1 = edge_B[last_LE1], edge_B[last_LE1 + 1]
    distance_LE1 = near_LE1 + part_LE1.clamp(0, 1) * (far_LE1 - near_LE1)
    # Scores that all tie, as a router of zeros gives them, put every token on one side.
    distance_LE1 = torch.where(within_LEB[..., -1:] < need_LE1, 0.0, distance_LE1)
    return torch.where(gain_LE1, distance_LE1, -distance_LE1).squeeze(-1)


class Boundary(NamedTuple):
    """The density of tokens around the boundary, and the width of the band it was measured in."""

    density_LE: Tensor  # h, tokens per unit of bias
    width_L1: Tensor  # w, units of the score


def boundary(count_LE2B: Tensor, band: float) -> Boundary:
    """The curvature h = near / 2w of every expert: the load it gains per unit of bias.

    Each layer has one w: the smallest edge that encloses `band` times as many margins as there are
    assignments. So w follows the scale of the scores for every gate. An expert without tokens
    nearby gets a twentieth of the mean curvature, so that its bias can still move.
    """
    near_LEB = count_LE2B.sum(dim=-2).cumsum(dim=-1).to(torch.float32)
    enough_L1 = band * count_LE2B[..., 0, :].sum(dim=(-1, -2)).unsqueeze(-1)
    edge_L1 = (near_LEB.sum(dim=-2) < enough_L1).sum(dim=-1, keepdim=True).clamp_max(NUM_BINS - 1)
    width_L1 = edges(count_LE2B.device)[edge_L1 + 1]
    near_LE = near_LEB.gather(-1, edge_L1.unsqueeze(-1).expand_as(near_LEB[..., :1])).squeeze(-1)
    h_LE = near_LE / (2 * width_L1)
    floor_L1 = 0.05 * h_LE.mean(dim=-1, keepdim=True) + 1e-9
    return Boundary(torch.maximum(h_LE, floor_L1), width_L1)
