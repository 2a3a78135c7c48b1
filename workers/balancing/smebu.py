"""SMEBU: a soft-clipped proportional step with momentum.

    d = u * tanh(kappa * (L - A) / L), centred;  m = beta * m + (1 - beta) * d;  b += m

Source: Arcee AI 2026, arXiv:2602.17004 (Trinity Large: u 5e-4, kappa 2, beta 0.5).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from evenload.workers.balancing.base import Balancer, Observation, centre, relative_error
from evenload.workers.balancing.combinators import centred


class SmebuState(NamedTuple):
    bias_LE: Tensor
    momentum_LE: Tensor  # float32, mean of past steps


def make(*, step_size: float, kappa: float, momentum: float) -> Balancer:
    def update(observation: Observation, state: SmebuState) -> SmebuState:
        step_LE = centre(step_size * torch.tanh(kappa * relative_error(observation)))
        momentum_LE = momentum * state.momentum_LE + (1 - momentum) * step_LE
        return SmebuState(state.bias_LE + momentum_LE, momentum_LE)

    return centred(Balancer(init=_zeros, update=update))


def _zeros(num_layers: int, num_experts: int, device: torch.device) -> SmebuState:
    zero_LE = torch.zeros(num_layers, num_experts, device=device)
    return SmebuState(zero_LE, zero_LE.clone())
