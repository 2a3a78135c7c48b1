"""Sinkhorn: routes by the entropic transport plan between the tokens of a batch and the experts.

    start d0 = d1 = 1;  d0_i = 1 / (T sum_k d1_k c_ik);  d1_k = tau_k / sum_i d0_i c_ik
    route by the top-k of d0 c d1

The plan depends on the whole batch, so on later tokens too; inference uses plain top-k.
Source: Megatron-LM, core/transformer/moe/moe_utils.py; Lewis et al. 2021, arXiv:2103.16716.
Differs: a fixed number of iterations, not a tolerance, so the host never waits for the device. c is
exp(logit), found from the score s: for softmax s itself, since d0 takes up a factor of each token;
otherwise the odds s / (1 - s), which is exact for sigmoid.

Letters: T tokens, E experts.
"""

import torch
from torch import Tensor

from evenload.workers.balancing.base import Balancer, BiasState, keep_bias

SATURATED = 1e-6


def make(*, iterations: int, target: tuple[float, ...] | None) -> Balancer:
    @torch.no_grad()
    def adjust(score_TE: Tensor, bias_E: Tensor) -> Tensor:
        num_tokens, num_experts = score_TE.shape[-2:]
        share = 1 / num_experts if target is None else score_TE.new_tensor(target)
        # Saturated gates would give odds of 0 or infinity.
        safe_TE = score_TE.clamp(SATURATED, 1 - SATURATED)
        is_softmax = ((score_TE.sum(dim=-1) - 1).abs() < SATURATED * num_experts).all()
        cost_TE = torch.where(is_softmax, score_TE, safe_TE / (1 - safe_TE))
        expert_1E = torch.ones_like(cost_TE[..., :1, :])
        token_T1 = torch.ones_like(cost_TE[..., :1])
        for _ in range(iterations):
            token_T1 = 1 / (num_tokens * (expert_1E * cost_TE).sum(dim=-1, keepdim=True))
            expert_1E = share / (token_T1 * cost_TE).sum(dim=-2, keepdim=True)
        return expert_1E * cost_TE * token_T1

    return Balancer(init=BiasState.zeros, update=keep_bias, adjust=adjust, causal=False)
