"""Regret of a rule: what its biases cost beyond the best fixed bias in hindsight.

    R_N = sum_n f_n(p_n) - min_p sum_n f_n(p),   f_n = D_n / T

Predicted, for gradient steps on independent stationary scores:
    step 1 / (mu n)   R_N <= G^2 / (2 mu) (1 + ln N)          G >= ||A - L||_2 / T
    step c / sqrt(n)  R_N <= (Q^2 / (2 c) + c G^2) sqrt N     Q the diameter of where biases went
    step c            R_N <= ||p*||^2 / (2 c) + c G^2 N / 2
    sign steps        not covered; a u/n schedule moves a bias by at most u (ln N + 0.58)
Source: standard online convex optimisation, e.g. Hazan 2016, arXiv:1909.05207, chapter 3; the
strongly convex case in Han & Zhong 2025, arXiv:2512.03915.

Letters: N steps, T tokens, E experts, K top-k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evenload.pipeline.spec.balancers import BalancerSpec
from evenload.workers.simulation.dual import (
    dual_value,
    loads,
    minimiser,
    narrow_width,
    spectrum,
    tie_density,
)

GROWTHS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "a constant": np.zeros_like,
    "log N": np.log,
    "sqrt N": np.sqrt,
    "N": np.positive,
}
CURVE_POINTS = 200  # of a regret in JSON


class Play(NamedTuple):
    """What one layer saw and did: scores of every step and the bias that routed it."""

    score_NTE: Tensor
    bias_NE: Tensor
    load_E: Tensor  # wanted, in assignments a step
    top_k: int


class Growth(NamedTuple):
    """The law level + slope * law(n) that fits a regret best, slope >= 0."""

    law: str
    level: float
    slope: float
    error: float  # root mean square residual over the regret's spread


class Regret(NamedTuple):
    regret_N: NDArray[np.float64]  # against the fixed bias that is best over all N steps
    best_bias_E: Tensor
    gradient: float  # G, measured
    spectrum_E: NDArray[np.float64]  # of the tie-density Laplacian at the best bias, ascending
    growth: Growth
    bound: float | None  # predicted for the whole run, None where theory has none
    bound_name: str

    @property
    def total(self) -> float:
        return float(self.regret_N[-1])

    @property
    def modulus(self) -> float:
        """Strong convexity mu at the best bias; 0 where groups of experts never compete."""
        return max(0.0, float(self.spectrum_E[1]))

    def to_dict(self) -> dict[str, Any]:
        return {
            "regret": self.total,
            "growth": self.growth.law,
            "fit_error": self.growth.error,
            "fit_level": self.growth.level,
            "fit_slope": self.growth.slope,
            "bound": self.bound,
            "bound_name": self.bound_name,
            "gradient": self.gradient,
            "modulus": self.modulus,
            "finding": self.finding,
            "spectrum": self.spectrum_E.tolist(),
            "curve": self.curve(),
        }

    def curve(self) -> dict[str, list[float]]:
        """At most CURVE_POINTS steps: the regret so far, and what the dual lies above the best
        bias's, mean over the steps since the point before."""
        steps = len(self.regret_N)
        last_P = np.unique(np.linspace(1, steps, min(steps, CURVE_POINTS)).round().astype(int))
        regret_P = self.regret_N[last_P - 1]
        return {
            "step": last_P.tolist(),
            "regret": regret_P.tolist(),
            "dual_gap": (np.diff(regret_P, prepend=0) / np.diff(last_P, prepend=0)).tolist(),
        }

    @property
    def finding(self) -> str:
        if self.total < 0:
            return f"regret {self.total:.3g}: better than any fixed bias, as scores moved"
        grows = f"regret {self.total:.3g}, grows like {self.growth.law}"
        grows += f" (residual {self.growth.error:.0%})"
        if self.bound is None:
            return f"{grows}; {self.bound_name}"
        verdict = "below" if self.total <= self.bound else "ABOVE"
        return f"{grows}; {verdict} the bound {self.bound:.3g} ({self.bound_name})"


def best_fixed_bias(score_NTE: Tensor, load_E: Tensor, top_k: int) -> Tensor:
    """The bias that would have been best for all steps together, float64."""
    pooled = score_NTE.double().cpu().flatten(0, 1)
    return minimiser(pooled, len(score_NTE) * load_E.double().cpu(), top_k)


def regret(play: Play, rule: BalancerSpec, best_E: Tensor) -> Regret:
    """The regret of a run of `rule` against `best_E`, its growth and the bound theory has for it.

    Where several rules met the same scores, `best_fixed_bias` is found once for all of them.
    """
    score_NTE, bias_NE = play.score_NTE.double().cpu(), play.bias_NE.double().cpu()
    load_E = play.load_E.double().cpu()
    num_steps = len(score_NTE)
    pooled = score_NTE.flatten(0, 1)
    excess_N, gradient_N = _costs(score_NTE, bias_NE, load_E, play.top_k, best_E)
    width = narrow_width(pooled, best_E, play.top_k)
    found = spectrum(tie_density(pooled, best_E, play.top_k, width))
    regret_N = np.cumsum(excess_N)
    diameter = float((bias_NE - best_E).norm(dim=-1).max())
    share = play.top_k / len(load_E)
    bound, name = _bound(rule, num_steps, share, gradient_N.max(), found.modulus, diameter, best_E)
    return Regret(
        regret_N,
        best_E,
        float(gradient_N.max()),
        found.value_E.numpy(),
        fitted_growth(regret_N),
        bound,
        name,
    )


def fitted_growth(regret_N: NDArray[np.float64]) -> Growth:
    """Which of a, a + c log N, a + c sqrt N, a + c N fits best, c >= 0.

    The first tenth is left out: it is the way to the optimum, not the growth.
    """
    n = np.arange(1, len(regret_N) + 1, dtype=np.float64)
    start = len(n) // 10
    n, value = n[start:], regret_N[start:]
    spread = max(float(np.ptp(value)), 1e-12)
    fits = []
    for name, shape in GROWTHS.items():
        middle = float(shape(n).mean())
        x = shape(n) - middle
        power = float(x @ x)
        slope = max(0.0, float(x @ value) / power) if power > 0 else 0.0
        error = float(np.std(value - value.mean() - slope * x)) / spread
        fits.append(Growth(name, float(value.mean()) - slope * middle, slope, error))
    return min(fits, key=lambda fit: fit.error)


def _costs(
    score_NTE: Tensor, bias_NE: Tensor, load_E: Tensor, top_k: int, best_E: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """f_n(p_n) - f_n(best) and ||A - L|| / T of every step."""
    excess, gradient = [], []
    for score_TE, bias_E in zip(score_NTE, bias_NE, strict=True):
        own = dual_value(score_TE, bias_E, load_E, top_k)
        best = dual_value(score_TE, best_E, load_E, top_k)
        error_E = loads(score_TE, bias_E, top_k) - load_E
        excess.append((own - best) / len(score_TE))
        gradient.append(float(error_E.norm()) / len(score_TE))
    return np.array(excess), np.array(gradient)


def _bound(
    rule: BalancerSpec,
    num_steps: int,
    share: float,
    gradient: float,
    modulus: float,
    diameter: float,
    best_E: Tensor,
) -> tuple[float | None, str]:
    """The bound for the whole run, or why there is none."""
    if rule.kind == "sign":
        return None, "theory does not cover sign steps"
    if rule.kind != "proportional" or rule.params["normalise"] != "target":
        return None, "theory has no bound for this rule"
    # u (L - A) / L is a gradient step of size u E / K on D / T.
    size, square = rule.params["step_size"] / share, gradient**2
    if size == 0:
        return None, "a step size of 0 learns nothing"
    match rule.params["schedule"]:
        case "constant":
            start = float(best_E.square().sum())
            return start / (2 * size) + size * square * num_steps / 2, "constant step, linear in N"
        case "inverse_sqrt":
            value = (diameter**2 / (2 * size) + size * square) * num_steps**0.5
            return value, "step c / sqrt(n), sqrt N"
        case _ if size * modulus < 1:
            needed = share / modulus if modulus > 0 else float("inf")
            return None, f"a 1/n step needs u >= {needed:.3g}, K/E over the modulus"
        case _:
            # A step of c / n with c >= 1 / mu keeps the bound of 1 / (mu n), scaled.
            return size * square / 2 * (1 + np.log(num_steps)), "step 1 / (mu n), log N"
