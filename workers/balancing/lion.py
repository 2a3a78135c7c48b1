"""Lion on the biases: the sign of an average of load errors, with a pull of the biases towards 0.

    c = beta1 * m + (1 - beta1) * e;  b += u * (sign(c) - shrink * b)
    m = beta2 * m + (1 - beta2) * e

with e = (L - A) / L.  Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2, where e is minus the
gradient. Differs from the paper: centred after the step, which keeps the selection.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from evenload.workers.balancing.base import Balancer, Observation, relative_error
from evenload.workers.balancing.combinators import centred


class LionState(NamedTuple):
    bias_LE: Tensor
    momentum_LE: Tensor  # float32, average of past errors


def make(*, step_size: float, beta1: float, beta2: float, shrink: float) -> Balancer:
    def update(observation: Observation, state: LionState) -> LionState:
        error_LE, past_LE = relative_error(observation), state.momentum_LE
        direction_LE = (beta1 * past_LE + (1 - beta1) * error_LE).sign()
        bias_LE = state.bias_LE + step_size * (direction_LE - shrink * state.bias_LE)
        return LionState(bias_LE, beta2 * past_LE + (1 - beta2) * error_LE)

    return centred(Balancer(init=_zeros, update=update))


def _zeros(num_layers: int, num_experts: int, device: torch.device) -> LionState:
    zero_LE = torch.zeros(num_layers, num_experts, device=device)
    return LionState(zero_LE, zero_LE.clone())
