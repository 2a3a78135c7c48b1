"""A dual step that sets its own size: averages of the best bias compete, the best predictor leads.

The load error over the measured curvature says where the bias should have been, up to sampling
noise. A bank of running averages, with gains 1, 1/2, ... 1/256, follows these estimates; the bias
is their mean, weighted by how well each predicted the latest estimates. So the gain falls towards
0 like the 1/n of the theory while scores stand still, settles where lag and noise balance while
they drift, and opens after a jump, without a noise model: what counts is the prediction.

    h     tokens per unit of bias at the boundary, an average over steps
    z     (E-1)/E (L - A) / h; beyond the width of the band that h was measured in, the change that
          alone would have given the expert its load;  o = b + z is the estimate of the best bias
    e_j   o - b_j;  b_j += max(g_j, 1/n) e_j             n steps since the start or a restart
    c_j   discounted mean of h e_j^2;  b = sum_j w_j b_j,  w_j ~ c_j^-SHARPNESS
    An average that is LOST times worse than the best takes the place of b.
    Restart: b was wrong by far more than usual, and the last estimate alone right; and again
    after each restart while that halves the error. Where both
    were wrong the batch was odd: its c_j count as the usual ones.

Ours. The bank is prediction with expert advice (Vovk 1990) over step sizes; judging a gain by the
innovations it leaves goes back to Mehra 1970.

Letters: L layers, E experts, J gains.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evenload.workers.balancing.base import Balancer, Observation, centre, load_error
from evenload.workers.balancing.margins import MARGIN_COUNTS, Boundary, boundary, crossing

# Halving or doubling any of them moves steady MaxVio by less than 2 %: infra/research/LOG.md
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
    gain_L1: Tensor  # share of the latest estimate in the bias; what other rules call step size


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
    # On the way from afar an expert may come into a crowd that its average does not know of yet.
    h_LE = torch.maximum(h_LE, now.density_LE / 2)
    step_LE = _full_step(observation, h_LE, now)
    miss_LJE = (state.bias_LE + step_LE).unsqueeze(1) - state.estimate_LJE
    error_LJ = (miss_LJE.square() * h_LE.unsqueeze(1)).mean(dim=-1)
    own_L1 = (step_LE.square() * h_LE).mean(dim=-1, keepdim=True)
    # How unusual this step is, at least 1; the first two steps have nothing to compare with.
    usual_L1 = state.error_LJ.amin(dim=-1, keepdim=True)
    odds_L1 = torch.where(state.age_L1 > 1, own_L1 / (SURPRISE * usual_L1 + 1e-30), 1.0)
    surprised_L1 = (odds_L1 > 1) & _was_right(error_LJ, own_L1, step_LE)
    restart_L1 = _is_approaching(own_L1, state) | surprised_L1
    age_L1 = torch.where(restart_L1, 1.0, state.age_L1 + 1)
    # An odd batch is as bad for all averages and would hide how they differ: it weighs less.
    mixed = _mixed(state, miss_LJE, error_LJ / odds_L1.clamp_min(1), age_L1)
    fresh = mixed._replace(curvature_LE=torch.where(restart_L1, now.density_LE, h_LE))
    return _unless_empty(observation, state, fresh)


def _full_step(observation: Observation, h_LE: Tensor, now: Boundary) -> Tensor:
    """z: the change of every bias that would have given each expert its load, centred."""
    assert observation.statistic is not None
    newton_LE = load_error(observation) / h_LE
    exact_LE = crossing(observation.statistic, load_error(observation))
    # Close by, the averaged curvature is less noisy than the few tokens that are crossed.
    step_LE = torch.where(exact_LE.abs() > now.width_L1, exact_LE, newton_LE)
    # All experts move at once: a diagonal step overshoots by E/(E-1) where they compete evenly.
    return centre((1 - 1 / h_LE.shape[-1]) * step_LE)


def _is_approaching(own_L1: Tensor, state: SelfTunedState) -> Tensor:
    """The first step, and every one after a restart as long as each halves the error.

    Estimates from afar are rough, as all experts move at once: they are followed, not averaged.
    """
    before_L1 = state.error_LJ.amax(dim=-1, keepdim=True)
    return (state.age_L1 == 0) | ((state.age_L1 == 1) & (own_L1 < before_L1 / 2))


def _was_right(error_LJ: Tensor, own_L1: Tensor, step_LE: Tensor) -> Tensor:
    """The latest estimate alone, gain 1, predicted this step far better than the bias did."""
    # The ratio of two errors of few experts is large by chance more often.
    factor = max(SURPRISE, math.exp(12 / step_LE.shape[-1]))
    return own_L1 > factor * error_LJ[:, :1]


def _mixed(
    state: SelfTunedState, miss_LJE: Tensor, error_LJ: Tensor, age_L1: Tensor
) -> SelfTunedState:
    """The averages after this step's estimate, and their weighted mean as the bias."""
    # The step of a restart says nothing about the averages: it moves them all to one place.
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
    """A step without tokens teaches nothing."""
    seen_L = observation.count_LE.sum(dim=-1) > 0
    kept = (
        torch.where(seen_L.view(-1, *[1] * (new.ndim - 1)), new, old)
        for old, new in zip(before, after, strict=True)
    )
    return SelfTunedState(*kept)
