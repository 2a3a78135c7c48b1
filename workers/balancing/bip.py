"""BIP: routes the batch with a few iterations of a primal-dual method for the integer program.

    q = 0;  repeat  p_i = max(0, (K+1)-th largest over experts of s_ik - q_k)
                    q_k = max(0, (L_k+1)-th largest over tokens of s_ik - p_i)
    route by the top-k of s - q

The method sees the whole batch, so later tokens influence earlier ones; inference uses plain top-k.
The clipping can push loaded experts down but cannot lift starved ones.
Source: Sun 2025, arXiv:2502.15451, algorithm 1.

Letters: T tokens, E experts, K top-k.
"""

import torch
from torch import Tensor

from evenload.workers.balancing.base import Balancer, BiasState, keep_bias


def make(*, iterations: int, top_k: int, target: tuple[float, ...] | None) -> Balancer:
    @torch.no_grad()
    def adjust(score_TE: Tensor, bias_E: Tensor) -> Tensor:
        num_tokens, num_experts = score_TE.shape[-2:]
        if top_k == num_experts or num_tokens == 0:
            return score_TE
        rank_1E = _ranks(score_TE, top_k, target)
        price_1E = torch.zeros_like(score_TE[..., :1, :])
        for _ in range(iterations):
            relief_TE = score_TE - price_1E
            token_T1 = relief_TE.topk(top_k + 1, dim=-1).values[..., -1:].clamp_min(0)
            wish_TE = (score_TE - token_T1).sort(dim=-2, descending=True).values
            price_1E = wish_TE.gather(-2, rank_1E).clamp_min(0)
        return score_TE - price_1E

    return Balancer(init=BiasState.zeros, update=keep_bias, adjust=adjust, causal=False)


def _ranks(score_TE: Tensor, top_k: int, target: tuple[float, ...] | None) -> Tensor:
    """Index of the first token that each expert has no room for; shape (..., 1, E)."""
    num_tokens, num_experts = score_TE.shape[-2:]
    share = target or (1 / num_experts,) * num_experts
    room_E = score_TE.new_tensor([round(part * top_k * num_tokens) for part in share])
    rank_E = room_E.long().clamp_max(num_tokens - 1)
    return rank_E.expand(*score_TE.shape[:-2], 1, num_experts)
