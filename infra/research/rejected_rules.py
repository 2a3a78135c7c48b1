"""Rules that were worse than those in workers/balancing, kept to repeat the comparison.

Letters: L layers, E experts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evenload.workers.balancing.base import Balancer, Observation, centre, load_error
from evenload.workers.balancing.margins import MARGIN_COUNTS, boundary

MEMORY = 0.9
RATE = 0.3
LARGEST_STEP = 0.25


class LagOneState(NamedTuple):
    bias_LE: Tensor
    curvature_LE: Tensor
    innovation_LE: Tensor
    gain_L1: Tensor
    product_L1: Tensor
    power_L1: Tensor
    usual_L1: Tensor
    updates: Tensor


def lag_one(band: float = 1.0) -> Balancer:
    """Moves one gain per layer until successive innovations are uncorrelated (after Mehra 1970).

    The predecessor of `self_tuned`. It is as good in the steady state, but slower after a cold
    start and a jump, and its gain is unstable with few experts.
    """

    def update(observation: Observation, state: LagOneState) -> LagOneState:
        assert observation.statistic is not None
        first = state.updates == 0
        now_LE = boundary(observation.statistic, band).density_LE
        memory_LE = torch.where(first, now_LE, torch.lerp(now_LE, state.curvature_LE, MEMORY))
        h_LE = torch.where(state.updates < 20, torch.maximum(now_LE, memory_LE), memory_LE)
        z_LE = (1 - 1 / h_LE.shape[-1]) * load_error(observation) / h_LE
        y_LE = z_LE * h_LE.sqrt()
        tuned = _tuned(y_LE, state, first)
        step_LE = (tuned.gain_L1 * z_LE).clamp(-LARGEST_STEP, LARGEST_STEP)
        return tuned._replace(
            bias_LE=centre(state.bias_LE + step_LE),
            curvature_LE=memory_LE,
            innovation_LE=y_LE,
            updates=state.updates + 1,
        )

    return Balancer(init=_zeros, update=update, measure=MARGIN_COUNTS)


def _zeros(num_layers: int, num_experts: int, device: torch.device) -> LagOneState:
    zero_LE = torch.zeros(num_layers, num_experts, device=device)
    zero_L1 = torch.zeros(num_layers, 1, device=device)
    updates = torch.zeros((), dtype=torch.int64, device=device)
    return LagOneState(zero_LE, zero_LE, zero_LE, zero_L1 + 1, zero_L1, zero_L1, zero_L1, updates)


def _tuned(y_LE: Tensor, state: LagOneState, first: Tensor) -> LagOneState:
    power_L1 = y_LE.square().mean(dim=-1, keepdim=True)
    before_L1 = state.innovation_LE.square().mean(dim=-1, keepdim=True)
    both_L1 = torch.where(first, power_L1, (power_L1 + before_L1) / 2)
    product_L1 = (y_LE * state.innovation_LE).mean(dim=-1, keepdim=True)
    c1_L1 = torch.where(first, 0.0, torch.lerp(product_L1, state.product_L1, MEMORY))
    c0_L1 = torch.where(first, both_L1, torch.lerp(both_L1, state.power_L1, MEMORY))
    gain_L1 = (state.gain_L1 * (RATE * c1_L1 / c0_L1.clamp_min(1e-30)).exp()).clamp(1e-3, 1)
    surprised_L1 = (product_L1 > 0.7 * both_L1) & (power_L1 > 4 * state.usual_L1)
    slow_L1 = torch.where(surprised_L1, 0.97, 0.9)
    usual_L1 = slow_L1 * state.usual_L1 + (1 - slow_L1) * power_L1
    return state._replace(
        gain_L1=torch.where(surprised_L1, gain_L1.clamp_min(0.7), gain_L1),
        product_L1=c1_L1,
        power_L1=c0_L1,
        usual_L1=torch.where(first, power_L1, usual_L1),
    )
