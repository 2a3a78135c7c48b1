"""Recommends step sizes and schedules for a recorded run, from theory and with their limits.

A few hundred recorded steps give estimates of the dual's curvature and its modulus, the noise of a
load and the drift of the best bias. From these follows, for every family of rules, the step that
balances lag against noise, whether it is stable, and whether biases can move as far as they must.

Letters: N steps, L expert layers, T tokens, E experts, K top-k.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evenload.pipeline.records.scores import Recording
from evenload.workers.balancing.base import centre
from evenload.workers.balancing.margins import bias_change, boundary, margin_counts
from evenload.workers.simulation.dual import spectrum, tie_density

BAND = 0.3
LAGS = (1, 2, 4, 8, 16, 32)
COLD_START = 4  # a cold start may take one part in so many of the run


class Estimate(NamedTuple):
    """Estimates for one layer. Biases are in units of the score, loads in assignments."""

    tokens: int
    num_experts: int
    top_k: int
    density: float  # h, tokens per unit of bias at the boundary, mean over experts
    modulus: float  # smallest nonzero eigenvalue of the dual's curvature per token
    largest: float  # largest eigenvalue
    noise: float  # variance of one step's estimate of a best bias
    drift: float  # variance of the change of the best bias in one step
    least_drift: float  # lower end of the drift's 95 % interval; 0 if it may stand still
    travel: float  # largest absolute value of a best bias
    unit: str = "probability"  # of a bias

    @property
    def share(self) -> float:
        return self.top_k / self.num_experts

    @property
    def gain(self) -> float:
        """The share of a full step that balances lag and noise."""
        return _gain_of(self.drift, self.noise)

    @property
    def least_gain(self) -> float:
        """The gain that the drift needs for certain."""
        return _gain_of(self.least_drift, self.noise)


def _gain_of(drift: float, noise: float) -> float:
    """The steady gain of a scalar Kalman filter."""
    ratio = drift / noise if noise > 0 else 0.0
    variance = (ratio + math.sqrt(ratio * ratio + 4 * ratio)) / 2
    return variance / (variance + 1)


class Advice(NamedTuple):
    """A recommended setting of one family, or the reason against it."""

    rule: dict[str, Any]  # in the form of a spec
    reason: str
    refused: bool = False


def estimate(recording: Recording, layer: int) -> Estimate:
    """Estimates from the recorded scores of a layer.

    Noise is that of a whole step, drift that of one optimizer step: more tokens than were recorded
    have less noise, and best biases drift on between two recorded steps.
    Raises:   ValueError: there are too few steps to separate drift from noise
    """
    score_NTE, top_k = recording.score_NLTE[:, layer], recording.top_k
    num_steps, tokens, num_experts = score_NTE.shape
    if num_steps < 2 * LAGS[-1]:
        raise ValueError(
            f"{num_steps} recorded steps are too few to separate drift from noise; "
            f"record at least {2 * LAGS[-1]}"
        )
    best_NE, density = _best_biases(torch.from_numpy(score_NTE), top_k)
    noise, drift, least_drift = _noise_and_drift(best_NE)
    noise = noise * recording.sampled
    drifts = drift / recording.every, least_drift / recording.every
    last_E = best_NE[-LAGS[-1] :].mean(dim=0).double()
    pooled = torch.from_numpy(score_NTE[-LAGS[-1] :]).double().flatten(0, 1)
    eigen = spectrum(tie_density(pooled, last_E, top_k))
    travel = float(best_NE[LAGS[-1] :].abs().max())
    eigenvalues = eigen.modulus, eigen.largest
    sizes = tokens, num_experts, top_k
    return Estimate(*sizes, density, *eigenvalues, noise, *drifts, travel, recording.unit)


def advise(seen: Estimate, steps: int) -> list[Advice]:
    """A setting of every family of rules for a run of `steps` optimizer steps."""
    families = (_proportional, _proportional_inverse, _sign, _sign_inverse, _quantile)
    own = f"sets its own step; the gain should settle near {seen.gain:.3f}"
    return [family(seen, steps) for family in families] + [Advice({"kind": "self_tuned"}, own)]


def _best_biases(score_NTE: Tensor, top_k: int) -> tuple[Tensor, float]:
    """The best bias as each step estimates it, (N, E), and the mean density h.

    Each estimate is a damped full step from a running average, so their errors are independent.
    """
    num_tokens, num_experts = score_NTE.shape[1:]
    wanted_E = torch.full((num_experts,), num_tokens * top_k / num_experts)
    average_E, found, densities = torch.zeros(num_experts), [], []
    for step, score_TE in enumerate(score_NTE, start=1):
        count_1E2B = margin_counts(score_TE, average_E, top_k)[None]
        error_1E = wanted_E - count_1E2B[..., 0, :].sum(dim=-1)
        near = boundary(count_1E2B, BAND)
        exact_1E = bias_change(count_1E2B, error_1E)
        far_1E = exact_1E.abs() > near.width_L1
        step_1E = torch.where(far_1E, exact_1E, error_1E / near.density_LE)
        own_E = average_E + centre((1 - 1 / num_experts) * step_1E)[0]
        found.append(own_E)
        densities.append(float(near.density_LE.mean()))
        average_E = torch.lerp(average_E, own_E, max(0.1, 1 / step))
    return torch.stack(found), float(np.mean(densities[LAGS[-1] :]))


def _noise_and_drift(best_NE: Tensor) -> tuple[float, float, float]:
    """Noise r and drift q from how differences grow with lag: E(o_n - o_{n-m})^2 = 2 r + q m.

    The interval of q is over the experts, whose estimates have next to independent errors.
    """
    settled_NE = best_NE[LAGS[-1] // 2 :]
    growth_ME = np.stack(
        [(settled_NE[lag:] - settled_NE[:-lag]).square().mean(dim=0).numpy() for lag in LAGS]
    )
    slope_E, offset_E = np.polyfit(LAGS, growth_ME, 1)
    half = 1.96 * float(slope_E.std(ddof=1)) / math.sqrt(len(slope_E))
    slope = float(slope_E.mean())
    return max(float(offset_E.mean()) / 2, 1e-12), max(slope, 0.0), max(slope - half, 0.0)


def _proportional(seen: Estimate, steps: int) -> Advice:
    """A full Newton step for the mean expert is u = L / h; stable is u < 2 (K/E) / lambda_max."""
    gain, full = _usable_gain(seen, steps), seen.tokens * seen.share / seen.density
    limit = 2 * seen.share / seen.largest
    # The limit is valid for the mean bias; that of a single expert can be half of it.
    step = min(gain * full, limit / 2)
    reason = f"gain {gain:.3f} of a full step; stable below {limit:.3g}"
    return Advice({"kind": "proportional", "step_size": _rounded(step)}, reason)


def _proportional_inverse(seen: Estimate, steps: int) -> Advice:
    step = seen.share / seen.modulus if seen.modulus > 0 else math.inf
    rule = {"kind": "proportional", "step_size": _rounded(step), "schedule": "inverse"}
    if not math.isfinite(step):
        return Advice(rule, "the modulus is 0: groups of experts never compete", refused=True)
    if _drifts_too_fast(seen, steps):
        return Advice(rule, _lag_reason(seen, steps), refused=True)
    doubt = "; what drift there is may be noise" if seen.gain > 5 / steps else ""
    return Advice(rule, f"K/E over the modulus {seen.modulus:.3g}: logarithmic regret{doubt}")


def _sign(seen: Estimate, steps: int) -> Advice:
    """With noise sigma, the mean sign of an error is 2 phi(0) / sigma times the error: a gain."""
    sigma = math.sqrt(seen.noise) * seen.density
    gain = _usable_gain(seen, steps)
    steady = gain * sigma / (2 * 0.3989 * seen.density)
    travelling = seen.travel / (steps / COLD_START)
    rule = {"kind": "sign", "step_size": _rounded(max(steady, travelling))}
    if travelling > steady:
        reason = f"reaches {seen.travel:.3g} in 1/{COLD_START} of the run; {steady:.2g} is steadier"
    else:
        reason = f"gain {gain:.3f} near balance; cold start in {seen.travel / steady:.0f} steps"
    return Advice(rule, reason)


def _sign_inverse(seen: Estimate, steps: int) -> Advice:
    # Steps of size u/n can move a bias by at most u sum(1/n), about u (ln N + 0.58). Half of that
    # must suffice, because the later steps come too late.
    step = 2 * seen.travel / float((1 / np.arange(1, steps + 1)).sum())
    rule = {"kind": "sign", "step_size": _rounded(step), "schedule": "inverse"}
    if _drifts_too_fast(seen, steps):
        return Advice(rule, _lag_reason(seen, steps), refused=True)
    return Advice(rule, f"can move {2 * seen.travel:.3g}; biases must reach {seen.travel:.3g}")


def _usable_gain(seen: Estimate, steps: int) -> float:
    """The steady gain, raised if a cold start would otherwise last too long."""
    return max(seen.gain, 3 * COLD_START / steps)


def _drifts_too_fast(seen: Estimate, steps: int) -> bool:
    """True if a 1/n schedule cannot follow the best bias."""
    return seen.least_gain > 5 / steps


def _lag_reason(seen: Estimate, steps: int) -> str:
    return f"the best bias drifts (gain {seen.gain:.3f}); a gain of 1/{steps} lags behind"


def _quantile(seen: Estimate, steps: int) -> Advice:
    memory = round(max(1 - _usable_gain(seen, steps), 0.0), 2)
    rule = {"kind": "quantile", "memory": memory}
    if seen.unit != "probability":
        return Advice(rule, f"its histogram is not made for a {seen.unit}", refused=True)
    return Advice(rule, f"memory of gain {seen.gain:.3f}")


def _rounded(step: float) -> float:
    return float(f"{step:.2g}")
