"""Draws every token's experts at random: shows the sampling floor and the loss without routing.

The draws come from torch's global generator. Checkpoints keep its state, so a resumed run continues
with the same draws. The gate weights are the scores of the drawn experts.

Letters: T tokens, E experts, K top-k.
"""

import torch
from torch import Tensor

from evenload.workers.balancing.base import Balancer, BiasState, keep_bias


def make(*, top_k: int, target: tuple[float, ...] | None) -> Balancer:
    def adjust(score_TE: Tensor, bias_E: Tensor) -> Tensor:
        if target is None:
            return torch.rand_like(score_TE)
        return _systematic_sample(score_TE, score_TE.new_tensor(target) * top_k)

    return Balancer(init=BiasState.zeros, update=keep_bias, adjust=adjust)


def _systematic_sample(score_TE: Tensor, chance_E: Tensor) -> Tensor:
    """1 for the `sum(chance_E)` drawn experts of each token, 0 for the others.

    Expert k is drawn with probability chance_E[k] exactly. The experts form a line in random order,
    each as long as its chance; the integers, shifted by a random offset, hit the drawn ones
    (Madow 1949, systematic sampling).
    """
    order_TE = torch.rand_like(score_TE).argsort(dim=-1)
    end_TE = chance_E[order_TE].cumsum(dim=-1) + torch.rand_like(score_TE[..., :1])
    start_TE = torch.cat([end_TE[..., -1:] - chance_E.sum().round(), end_TE[..., :-1]], dim=-1)
    drawn_TE = (end_TE.floor() > start_TE.floor()).to(score_TE.dtype)
    return torch.zeros_like(score_TE).scatter(-1, order_TE, drawn_TE)
