"""A bias step that sets its own size: a Kalman filter tracks the best bias as a drifting state.

The load error divided by the measured curvature h is a noisy observation of how far off a bias is.
R is the noise that independent tokens would cause, Q the drift, P the variance of the bias:

    z = (E-1)/E (L - A) / h;  G = (P + Q) / (P + Q + R);  b += G z;  P = (1 - G)(P + Q)

Q follows the ratio of measured to predicted squared innovations; a jump widens P again. With Q = 0
and a wide P the gain is 1/n, which gives the step 1/(curvature n) of logarithmic regret.
The rule is ours. It is weak on correlated tokens, whose innovations always exceed R; the rule
`self_tuned` needs no noise model.

Letters: L layers, E experts.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from evenload.workers.balancing.base import Balancer, Observation, centre, load_error
from evenload.workers.balancing.margins import MARGIN_COUNTS, boundary, num_tokens

BAND = 1.0  # margins used for the curvature, in units of the assignments
CURVATURE_MEMORY = 0.9
FIRST_STEPS = 20  # steps that use the latest curvature where it exceeds the average
JUMP = 3.0  # ratio of measured to predicted squared innovations that widens P
DRIFT_RATE = 0.15
SMALLEST_DRIFT = 1e-6  # in units of R; keeps the gain above zero
LARGEST_STEP = 0.25


class KalmanState(NamedTuple):
    bias_LE: Tensor
    variance_LE: Tensor  # P, score squared
    curvature_LE: Tensor  # h, tokens per unit of bias
    drift_L1: Tensor  # Q, score squared per step
    updates: Tensor


def make() -> Balancer:
    return Balancer(init=_zeros, update=_update, measure=MARGIN_COUNTS)


def _zeros(num_layers: int, num_experts: int, device: torch.device) -> KalmanState:
    zero_LE = torch.zeros(num_layers, num_experts, device=device)
    zero_L1 = torch.zeros(num_layers, 1, device=device)
    updates = torch.zeros((), dtype=torch.int64, device=device)
    return KalmanState(zero_LE, zero_LE.clone(), zero_LE.clone(), zero_L1, updates)


def _update(observation: Observation, state: KalmanState) -> KalmanState:
    assert observation.statistic is not None
    first = state.updates == 0
    now_LE = boundary(observation.statistic, BAND).density_LE
    memory_LE = CURVATURE_MEMORY * state.curvature_LE + (1 - CURVATURE_MEMORY) * now_LE
    memory_LE = torch.where(first, now_LE, memory_LE)
    h_LE = torch.where(state.updates < FIRST_STEPS, torch.maximum(now_LE, memory_LE), memory_LE)
    noise_LE = _sampling_noise(observation) / h_LE.square()
    # A diagonal Newton step overshoots by up to E/(E-1) among evenly competing experts.
    few = 1 - 1 / h_LE.shape[-1]
    z_LE = few * load_error(observation) / h_LE
    prior_LE = torch.where(first, z_LE.square(), state.variance_LE)
    prior_LE, drift_L1 = _adapt_noise(z_LE, prior_LE, state.drift_L1, noise_LE)
    gain_LE = (prior_LE + drift_L1) / (prior_LE + drift_L1 + noise_LE)
    step_LE = (gain_LE * z_LE).clamp(-LARGEST_STEP, LARGEST_STEP)
    return KalmanState(
        centre(state.bias_LE + step_LE),
        (1 - gain_LE) * (prior_LE + drift_L1),
        memory_LE,
        drift_L1,
        state.updates + 1,
    )


def _sampling_noise(observation: Observation) -> Tensor:
    """Variance of a load of independent tokens, L_k (1 - L_k / T), in assignments squared."""
    assert observation.statistic is not None
    tokens_L1 = num_tokens(observation.statistic).clamp_min(1)
    target_LE = observation.target_LE
    return target_LE * (1 - target_LE / tokens_L1).clamp_min(0) + 1e-9


def _adapt_noise(
    z_LE: Tensor, variance_LE: Tensor, drift_L1: Tensor, noise_LE: Tensor
) -> tuple[Tensor, Tensor]:
    """P and Q, adapted to how the innovations compare with their predicted size."""
    predicted_LE = variance_LE + drift_L1 + noise_LE
    surprise_L1 = z_LE.square().mean(-1, keepdim=True) / predicted_LE.mean(-1, keepdim=True)
    jumped_L1 = surprise_L1 > JUMP
    excess_L1 = (z_LE.square() - predicted_LE).clamp_min(0).mean(dim=-1, keepdim=True)
    floor_L1 = SMALLEST_DRIFT * noise_LE.mean(dim=-1, keepdim=True)
    adapted_L1 = drift_L1 * (DRIFT_RATE * (surprise_L1 - 1)).exp()
    return (
        variance_LE + torch.where(jumped_L1, excess_L1, 0.0),
        torch.where(jumped_L1, drift_L1, torch.maximum(adapted_L1, floor_L1)),
    )
