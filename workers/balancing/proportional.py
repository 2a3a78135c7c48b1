"""The proportional rule: the bias moves by the load error, so its steps shrink near balance.

    normalise="target"   b += u * (L - A) / L
    normalise="rms"      b += u * (L - A) / sqrt(mean (L - A)^2)

Stable for u < 2 (K/E) / lambda_max of the curvature; `workers.simulation.advice` estimates it.
Source: Wang et al. 2024, arXiv:2408.15664, table 3 (the paper does not state its normalisation;
u = 1e-2 is stable with a relative error); Su 2025, kexue.fm/archives/10757 (RMS).
"""

import torch
from torch import Tensor

from evenload.workers.balancing import base
from evenload.workers.balancing.base import Balancer, BiasState, Observation
from evenload.workers.balancing.combinators import centred


def make(*, step_size: float, normalise: str, schedule: str) -> Balancer:
    error_of = {"target": base.relative_error, "rms": _unit_error}[normalise]

    def update(observation: Observation, state: BiasState) -> BiasState:
        step = base.scheduled(step_size, schedule, state.updates)
        bias_LE = state.bias_LE + step * error_of(observation)
        return BiasState(bias_LE, state.updates + 1)

    return centred(Balancer(init=BiasState.zeros, update=update))


def _unit_error(observation: Observation) -> Tensor:
    """The load error divided by its root mean square; zero at exact balance."""
    error_LE = base.load_error(observation)
    rms_L1 = error_LE.square().mean(dim=-1, keepdim=True).sqrt()
    return torch.where(rms_L1 > 0, error_LE / rms_L1, 0.0)
