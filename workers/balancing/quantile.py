"""Quantile balancing: the bias that gives each expert its load if all thresholds stay fixed.

    alpha_i = (K+1)-th largest over experts of s_i + b;   r_ik = alpha_i - s_ik
    b_k     = the L_k-th smallest of r_ik over tokens;    b = memory * b_old + (1 - memory) * b

The new bias applies from the next step on; there is no step size. With fixed thresholds and no ties
it gives exactly L_k tokens. Routing again moves the thresholds, so the real load is only close.
Source: Su 2026, kexue.fm/archives/11619 (exact); Moonshot AI 2026, arXiv:2607.24653, eq. (14)
(histogram); Megatron-LM, moe_router_quantile_balancing_ema (memory).

Letters: T tokens, E experts, L layers, B bins.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from evenload.workers.balancing.base import Balancer, BiasState, Measure, Observation, centre
from evenload.workers.balancing.margins import tokens_by_cell


def make(*, method: str, bins: int, memory: float) -> Balancer:
    """Args:
    method: "histogram" counts r in `bins` equal bins and adds up over ranks and micro-batches;
            "exact" keeps every r of the step and works on one rank only
    """
    if method == "exact":
        return _rule(Measure(shortfall, "concat"), _exact_quantile, memory)
    measure = Measure(partial(_histogram, bins), "sum")
    return _rule(measure, _histogram_quantile, memory)


def _rule(
    measure: Measure, quantile: Callable[[Observation, Tensor], Tensor], memory: float
) -> Balancer:
    def update(observation: Observation, state: BiasState) -> BiasState:
        # A step without tokens has no quantile.
        seen_L1 = observation.count_LE.sum(dim=-1, keepdim=True) > 0
        fresh_LE = torch.where(seen_L1, quantile(observation, state.bias_LE), state.bias_LE)
        bias_LE = memory * state.bias_LE + (1 - memory) * fresh_LE
        return BiasState(centre(bias_LE), state.updates + 1)

    return Balancer(init=BiasState.zeros, update=update, measure=measure)


def shortfall(
    score_TE: Tensor, bias_E: Tensor, top_k: int, valid_T: Tensor | None = None
) -> Tensor:
    """r: the bias that lifts each expert to each token's threshold, float32, shape (..., T, E).

    If every expert is chosen there is no threshold; the smallest chosen score replaces it.
    """
    rank = min(top_k + 1, score_TE.shape[-1])
    threshold_T1 = (score_TE + bias_E).float().topk(rank, dim=-1).values[..., -1:]
    r_TE = threshold_T1 - score_TE.float()
    return r_TE if valid_T is None else r_TE[..., valid_T, :]


def _rank(observation: Observation) -> Tensor:
    """L_k in whole tokens, at least 1."""
    return observation.target_LE.round().long().clamp_min(1)


def _exact_quantile(observation: Observation, bias_LE: Tensor) -> Tensor:
    """The upper end of the interval of biases that give L_k tokens."""
    assert observation.statistic is not None
    sorted_LTE = observation.statistic.sort(dim=1).values
    num_tokens = sorted_LTE.shape[1]
    if num_tokens == 0:
        return bias_LE
    rank_LE = _rank(observation).clamp_max(num_tokens - 1)
    return sorted_LTE.gather(1, rank_LE.unsqueeze(1)).squeeze(1)


def _span(bias_E: Tensor) -> tuple[Tensor, Tensor]:
    """Lower end and width of the range of r for scores in (0, 1): min b - 1 to max b + 1."""
    lowest = bias_E.amin(dim=-1, keepdim=True) - 1
    return lowest, bias_E.amax(dim=-1, keepdim=True) + 1 - lowest


def _histogram(
    bins: int, score_TE: Tensor, bias_E: Tensor, top_k: int, valid_T: Tensor | None = None
) -> Tensor:
    """Number of tokens per bin of r, int64 (..., E, B)."""
    lowest, width = _span(bias_E)
    r_TE = shortfall(score_TE, bias_E, top_k)
    # Clamped before the cast, because experts of a masked group are at infinity.
    bin_TE = ((r_TE - lowest) / width * bins).nan_to_num(bins).clamp_(0, bins - 1).long()
    num_experts = r_TE.shape[-1]
    expert_E = torch.arange(num_experts, device=r_TE.device)
    return tokens_by_cell(expert_E * bins + bin_TE, valid_T, num_experts, bins)


def _histogram_quantile(observation: Observation, bias_LE: Tensor) -> Tensor:
    """Interpolates within the bin of the L_k-th token, so the error is at most one bin's width."""
    assert observation.statistic is not None
    count_LEB = observation.statistic
    bins = count_LEB.shape[-1]
    below_LEB = count_LEB.cumsum(dim=-1)
    rank_LE1 = _rank(observation).unsqueeze(-1)
    bin_LE1 = (below_LEB < rank_LE1).sum(dim=-1, keepdim=True).clamp_max(bins - 1)
    inside_LE1 = count_LEB.gather(-1, bin_LE1)
    before_LE1 = below_LEB.gather(-1, bin_LE1) - inside_LE1
    part_LE1 = ((rank_LE1 - before_LE1) / inside_LE1.clamp_min(1)).clamp(0, 1)
    lowest_L1, width_L1 = _span(bias_LE)
    return lowest_L1 + width_L1 * (bin_LE1 + part_LE1).squeeze(-1) / bins
