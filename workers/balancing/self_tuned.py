"""A bias step that sets its own size: several averages of the best bias compete as predictors.

The load error divided by the measured curvature estimates the best bias, up to sampling noise. A
bank of running averages with gains 1, 1/2, ... 1/256 follows these estimates. The bias is their
mean, weighted by how well each predicted the latest estimates. On stationary scores the gain falls
towards 0 like the 1/n of the theory; on drifting scores it settles where lag and noise balance;
after a jump it rises again. No noise model is needed, because only the prediction counts.

    h     tokens per unit of bias at the boundary, an average over steps
    z     (E-1)/E (L - A) / h; if that exceeds the width of the band that h was measured in, the
          change that alone would give the expert its load;  o = b + z estimates the best bias
    e_j   o - b_j;  b_j += max(g_j, 1/n) e_j             n steps since the start or a restart
    c_j   discounted mean of h e_j^2;  b = sum_j w_j b_j,  w_j ~ c_j^-SHARPNESS
    An average that is LOST times worse than the best is reset to b.
    Restart: the error of b is far larger than usual, and that of the last estimate alone is not.
    Further restarts follow while each halves the error. If both errors are large, the batch is
    unusual: its c_j are scaled down to the usual size.

The rule is ours. The bank is prediction with expert advice (Vovk 1990) over step sizes; judging a
gain by the innovations it leaves goes back to Mehra 1970.

Letters: L layers, E experts, J gains.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evenload.workers.balancing.base import Balancer, Observation, centre, load_error
from evenload.workers.balancing.margins import MARGIN_COUNTS, Boundary, bias_change, boundary

# Halving or doubling any of these changes the steady MaxVio by less than 2 %:
# see infra/research/LOG.md.
NUM_GAINS = 9
BAND = 0.3  # margins used for the curvature, in units of the assignments
CURVATURE_MEMORY = 0.9
ERROR_MEMORY = 0.95
SHARPNESS = 100.0
LOST = 2.5
SURPRISE = 4.0


class SelfTunedState(NamedTuple):
    bias_LE: Tensor
    estimate_LJE: Tensor  # b_j
    error_LJ: Tensor  # c_j, tokens
    curvature_LE: Tensor  # h, tokens per unit of bias
    age_L1: Tensor  # n, float32
    gain_L1: Tensor  # share of the latest estimate in the bias; other rules call it step size


def make() -> Balancer:
    return Balancer(init=_zeros, update=_update, measure=MARGIN_COUNTS)


def _zeros(num_layers: int, num_experts: int, device: torch.device) -> SelfTunedState:
    zero_LE = torch.zeros(num_layers, num_experts, device=device)
    return SelfTunedState(
        bias_LE=zero_LE,
        estimate_LJE=torch.zeros(num_layers, NUM_GAINS, num_experts, device=device),
        error_LJ=torch.zeros(num_layers, NUM_GAINS, device=device),
        curvature_LE=zero_LE.clone(),
        age_L1=torch.zeros(num_layers, 1, device=device),
        gain_L1=torch.ones(num_layers, 1, device=device),
    )


def _update(observation: Observation, state: SelfTunedState) -> SelfTunedState:
    assert observation.statistic is not None
    now = boundary(observation.statistic, BAND)
    h_LE = CURVATURE_MEMORY * state.curvature_LE + (1 - CURVATURE_MEMORY) * now.density_LE
    h_LE = torch.where(state.age_L1 > 0, h_LE, now.density_LE)
    # A bias far from the best may reach a denser region that its average has not seen yet.
    h_LE = torch.maximum(h_LE, now.density_LE / 2)
    step_LE = _full_step(observation, h_LE, now)
    miss_LJE = (state.bias_LE + step_LE).unsqueeze(1) - state.estimate_LJE
    error_LJ = (miss_LJE.square() * h_LE.unsqueeze(1)).mean(dim=-1)
    own_L1 = (step_LE.square() * h_LE).mean(dim=-1, keepdim=True)
    # How unusual this step is; 1 in the first two steps, which have nothing to compare with.
    usual_L1 = state.error_LJ.amin(dim=-1, keepdim=True)
    odds_L1 = torch.where(state.age_L1 > 1, own_L1 / (SURPRISE * usual_L1 + 1e-30), 1.0)
    surprised_L1 = (odds_L1 > 1) & _predicted_better(error_LJ, own_L1, step_LE)
    restart_L1 = _is_approaching(own_L1, state) | surprised_L1
    age_L1 = torch.where(restart_L1, 1.0, state.age_L1 + 1)
    # An unusual batch is equally bad for all averages and would hide how they differ.
    mean = _weighted_mean(state, miss_LJE, error_LJ / odds_L1.clamp_min(1), age_L1)
    fresh = mean._replace(curvature_LE=torch.where(restart_L1, now.density_LE, h_LE))
    return _unless_empty(observation, state, fresh)


def _full_step(observation: Observation, h_LE: Tensor, now: Boundary) -> Tensor:
    """z: the centred change of the biases that would have given each expert its load."""
    assert observation.statistic is not None
    newton_LE = load_error(observation) / h_LE
    exact_LE = bias_change(observation.statistic, load_error(observation))
    # For small steps the averaged curvature is less noisy than counting a few tokens.
    step_LE = torch.where(exact_LE.abs() > now.width_L1, exact_LE, newton_LE)
    # All experts move at once, so a diagonal step overshoots by E/(E-1) if they compete evenly.
    return centre((1 - 1 / h_LE.shape[-1]) * step_LE)


def _is_approaching(own_L1: Tensor, state: SelfTunedState) -> Tensor:
    """True in the first step, and after a restart as long as each step halves the error.

    Far from the best bias the estimates are rough, because all experts move at once. The rule then
    follows them instead of averaging them.
    """
    before_L1 = state.error_LJ.amax(dim=-1, keepdim=True)
    return (state.age_L1 == 0) | ((state.age_L1 == 1) & (own_L1 < before_L1 / 2))


def _predicted_better(error_LJ: Tensor, own_L1: Tensor, step_LE: Tensor) -> Tensor:
    """True where the latest estimate alone (gain 1) predicted this step far better than b did."""
    # With few experts the ratio of two errors is more often large by chance.
    factor = max(SURPRISE, math.exp(12 / step_LE.shape[-1]))
    return own_L1 > factor * error_LJ[:, :1]


def _weighted_mean(
    state: SelfTunedState, miss_LJE: Tensor, error_LJ: Tensor, age_L1: Tensor
) -> SelfTunedState:
    """The averages after this step's estimate, and their weighted mean as the bias."""
    # A restart moves all averages to one place, so its errors cannot rank them.
    judged_L1 = (1 - ERROR_MEMORY ** (age_L1 - 1)) / (1 - ERROR_MEMORY)
    share_L1 = 1 / judged_L1.clamp_min(1)
    error_LJ = torch.lerp(state.error_LJ, error_LJ, share_L1)
    gain_J = 0.5 ** torch.arange(NUM_GAINS, device=age_L1.device)
    gain_LJ = torch.maximum(gain_J, 1 / age_L1)
    estimate_LJE = state.estimate_LJE + gain_LJ.unsqueeze(-1) * miss_LJE

    best_L1 = error_LJ.amin(dim=-1, keepdim=True).clamp_min(1e-30)
    weight_LJ = torch.softmax(-SHARPNESS * (error_LJ / best_L1).clamp_min(1).log(), dim=-1)
    weight_LJ = torch.where(age_L1 > 1, weight_LJ, 1 / NUM_GAINS)
    bias_LE = (weight_LJ.unsqueeze(-1) * estimate_LJE).sum(dim=1)
    limit_LJ = LOST * best_L1
    lost_LJ = (error_LJ > limit_LJ) & (age_L1 > 1)
    return state._replace(
        bias_LE=centre(bias_LE),
        estimate_LJE=torch.where(lost_LJ.unsqueeze(-1), bias_LE.unsqueeze(1), estimate_LJE),
        error_LJ=torch.where(lost_LJ, limit_LJ, error_LJ),
        age_L1=age_L1,
        gain_L1=(weight_LJ * gain_LJ).sum(dim=-1, keepdim=True),
    )


def _unless_empty(
    observation: Observation, before: SelfTunedState, after: SelfTunedState
) -> SelfTunedState:
    """The new state, except in layers without tokens, which keep the old one."""
    seen_L = observation.count_LE.sum(dim=-1) > 0
    kept = (
        torch.where(seen_L.view(-1, *[1] * (new.ndim - 1)), new, old)
        for old, new in zip(before, after, strict=True)
    )
    return SelfTunedState(*kept)
