"""The proportional rule on a running average of past loads, with a cap on the bias.

    a = m * a + (1 - m) * A / L;  b += u * (1 - a);  b clipped to the cap

Source: axolotl (axolotl-ai-cloud/axolotl, pull request 3533: rate 0.01, m 0.9, cap 2). Differs:
axolotl's rate multiplies 1/E - share, so its 0.01 is u = 0.01/E here; here the bias acts on scores.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from evenload.workers.balancing.base import Balancer, Observation, relative_error
from evenload.workers.balancing.combinators import centred, clipped


class EmaState(NamedTuple):
    bias_LE: Tensor
    error_LE: Tensor  # float32, average of past (L - A) / L; 0 before the first step


def make(*, step_size: float, momentum: float, cap: float) -> Balancer:
    def update(observation: Observation, state: EmaState) -> EmaState:
        error_LE = momentum * state.error_LE + (1 - momentum) * relative_error(observation)
        return EmaState(state.bias_LE + step_size * error_LE, error_LE)

    # Clipping moves the mean, so centring comes last.
    return centred(clipped(Balancer(init=_zeros, update=update), cap))


def _zeros(num_layers: int, num_experts: int, device: torch.device) -> EmaState:
    zero_LE = torch.zeros(num_layers, num_experts, device=device)
    return EmaState(zero_LE, zero_LE.clone())
