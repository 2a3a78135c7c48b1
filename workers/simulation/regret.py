"""The regret of a rule: the cost of its biases minus that of the best fixed bias in hindsight.

    R_N = sum_n f_n(p_n) - min_p sum_n f_n(p),   f_n = D_n / T

Predicted, for gradient steps on independent stationary scores:
    step 1 / (mu n)   R_N <= G^2 / (2 mu) (1 + ln N)          G >= ||A - L||_2 / T
    step c / sqrt(n)  R_N <= (Q^2 / (2 c) + c G^2) sqrt N     Q the diameter of the biases
    step c            R_N <= ||p*||^2 / (2 c) + c G^2 N / 2
    sign steps        not covered; a u/n schedule moves a bias by at most u (ln N + 0.58)
Source: standard online convex optimisation, e.g. Hazan 2016, arXiv:1909.05207, chapter 3; for the
strongly convex case Han & Zhong 2025, arXiv:2512.03915.

Letters: N steps, T tokens, E experts, K top-k.
"""

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
    spectrum,
    tie_density,
)

GROWTHS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "a constant": np.zeros_like,
    "log N": np.log,
    "sqrt N": np.sqrt,
    "N": np.positive,
}
CURVE_POINTS = 200  # points of a regret curve in JSON


class LayerRun(NamedTuple):
    score_NTE: Tensor
    bias_NE: Tensor
    load_E: Tensor  # wanted assignments per step
    top_k: int


class Growth(NamedTuple):
    """The law level + slope * law(n), slope >= 0, that fits a regret best."""

    law: str
    level: float
    slope: float
    error: float  # root mean square residual divided by the spread of the regret


class Regret(NamedTuple):
    regret_N: NDArray[np.float64]  # against the fixed bias that is best over all N steps
    gradient: float  # G, measured
    spectrum_E: NDArray[np.float64]  # of the tie-density Laplacian at the best bias, ascending
    growth: Growth
    bound: float | None  # predicted for the whole run; None if theory has no bound
    bound_name: str

    @property
    def total(self) -> float:
        return float(self.regret_N[-1])

    @property
    def modulus(self) -> float:
        """Strong convexity mu at the best bias; 0 if groups of experts never compete."""
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
        """At most CURVE_POINTS points with the step, the regret so far and the dual gap, which is
        the mean excess of the dual over that of the best bias since the previous point."""
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
            return f"regret {self.total:.3g}: better than any fixed bias, because scores moved"
        grows = f"regret {self.total:.3g}, grows like {self.growth.law}"
        grows += f" (residual {self.growth.error:.0%})"
        if self.bound is None:
            return f"{grows}; {self.bound_name}"
        verdict = "below" if self.total <= self.bound else "ABOVE"
        return f"{grows}; {verdict} the bound {self.bound:.3g} ({self.bound_name})"


def best_fixed_bias(score_NTE: Tensor, load_E: Tensor, top_k: int) -> Tensor:
    """The bias that minimises the dual over all steps, float64."""
    pooled = score_NTE.double().cpu().flatten(0, 1)
    return minimiser(pooled, len(score_NTE) * load_E.double().cpu(), top_k)


def regret(run: LayerRun, rule: BalancerSpec, best_E: Tensor) -> Regret:
    """The regret of a run of `rule` against `best_E`, its growth and its bound from theory.

    Args:     best_E: from `best_fixed_bias`, the same for all rules on the same scores
    """
    score_NTE, bias_NE = run.score_NTE.double().cpu(), run.bias_NE.double().cpu()
    load_E = run.load_E.double().cpu()
    excess_N, gradient_N = _costs(score_NTE, bias_NE, load_E, run.top_k, best_E)
    found = spectrum(tie_density(score_NTE.flatten(0, 1), best_E, run.top_k))
    regret_N = np.cumsum(excess_N)
    diameter = float((bias_NE - best_E).norm(dim=-1).max())
    share = run.top_k / len(load_E)
    bound, name = _bound(
        rule, len(score_NTE), share, gradient_N.max(), found.modulus, diameter, best_E
    )
    growth, eigenvalue_E = fitted_growth(regret_N), found.value_E.numpy()
    return Regret(regret_N, float(gradient_N.max()), eigenvalue_E, growth, bound, name)


def fitted_growth(regret_N: NDArray[np.float64]) -> Growth:
    """The best fit among a, a + c log N, a + c sqrt N and a + c N with c >= 0.

    The first tenth is left out, because it shows the way to the optimum and not the growth.
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
    """f_n(p_n) - f_n(best) and ||A - L||_2 / T of every step."""
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
    """The bound for the whole run with its name, or None with the reason."""
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
            return None, f"a 1/n step needs u >= {needed:.3g}, K/E divided by the modulus"
        case _:
            # For a step c / n with c >= 1 / mu the bound of 1 / (mu n) holds in scaled form.
            return size * square / 2 * (1 + np.log(num_steps)), "step 1 / (mu n), log N"
