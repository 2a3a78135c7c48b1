"""A dual step that sets its own size: the gain that makes successive load errors uncorrelated.

The load error over the measured curvature h estimates how far off a bias is. If the share g of it
that is applied is right, successive estimates are uncorrelated; if g is too small they are
positively correlated, if too large negatively (Mehra 1970). No noise model is needed.

Letters: L layers, E experts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from workers.balancing.base import Balancer, Observation, centre, load_error
from workers.balancing.margins import MARGIN_COUNTS, curvature

BAND = 1.0
MEMORY = 0.9
YOUNG = 20
LARGEST_STEP = 0.25


class SelfTunedState(NamedTuple):
    bias_LE: Tensor
    curvature_LE: Tensor  # h, tokens per unit of bias
    innovation_LE: Tensor  # y of the last step
    gain_L1: Tensor  # g
    product_L1: Tensor  # C1
    power_L1: Tensor  # C0
    usual_L1: Tensor  # M
    updates: Tensor


def make() -> Balancer:
    return Balancer(init=_zeros, update=_update, measure=MARGIN_COUNTS)


def _zeros(num_layers: int, num_experts: int, device: torch.device) -> SelfTunedState:
    zero_LE = torch.zeros(num_layers, num_experts, device=device)
    zero_L1 = torch.zeros(num_layers, 1, device=device)
    return SelfTunedState(
        zero_LE,
        zero_LE.clone(),
        zero_LE.clone(),
        zero_L1 + 1,
        zero_L1,
        zero_L1.clone(),
        zero_L1.clone(),
        torch.zeros((), dtype=torch.int64, device=device),
    )


def _update(observation: Observation, state: SelfTunedState) -> SelfTunedState:
    assert observation.statistic is not None
    first = state.updates == 0
    now_LE = curvature(observation.statistic, BAND)
    memory_LE = torch.where(first, now_LE, MEMORY * state.curvature_LE + (1 - MEMORY) * now_LE)
    h_LE = torch.where(state.updates < YOUNG, torch.maximum(now_LE, memory_LE), memory_LE)
    z_LE = (1 - 1 / h_LE.shape[-1]) * load_error(observation) / h_LE
    y_LE = z_LE * h_LE.sqrt()
    power_L1 = y_LE.square().mean(dim=-1, keepdim=True)
    c1 = (y_LE * state.innovation_LE).mean(dim=-1, keepdim=True)
    c0 = (power_L1 + state.innovation_LE.square().mean(dim=-1, keepdim=True)) / 2
    c0 = torch.where(first, power_L1, c0)
    C0 = torch.where(first, c0, MEMORY * state.power_L1 + (1 - MEMORY) * c0)
    C1 = torch.where(first, 0.0, MEMORY * state.product_L1 + (1 - MEMORY) * c1)
    g = (state.gain_L1 * (0.3 * C1 / C0.clamp_min(1e-30)).exp()).clamp(1e-3, 1)
    surprised = (c1 > 0.7 * c0) & (power_L1 > 4 * state.usual_L1)
    g = torch.where(surprised, g.clamp_min(0.7), g)
    slow = torch.where(surprised, 0.97, 0.9)
    usual = torch.where(first, power_L1, slow * state.usual_L1 + (1 - slow) * power_L1)
    step_LE = (g * z_LE).clamp(-LARGEST_STEP, LARGEST_STEP)
    return SelfTunedState(
        centre(state.bias_LE + step_LE), memory_LE, y_LE, g, C1, C0, usual, state.updates + 1
    )
