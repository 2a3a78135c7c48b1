"""The dual of the assignment problem, its one-step identity and its curvature. Float64.

    D(p) = sum_i TopKSum_i(score_i + p) - sum_k L_k p_k      convex, piecewise linear
    dD/dp_k = A_k(p) - L_k                                    where no token ties

Letters: T tokens, E experts, K top-k.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Change(NamedTuple):
    """D(p + d) - D(p) = linear + sum of benefits, exactly, for any d."""

    total: float
    linear: float  # sum_k d_k (A_k - L_k)
    benefit_T: Tensor  # gain of each token from choosing again with the new biases, >= 0


def top_k_sum(score_TE: Tensor, top_k: int) -> Tensor:
    return score_TE.topk(top_k, dim=-1).values.sum(dim=-1)


def loads(score_TE: Tensor, bias_E: Tensor, top_k: int) -> Tensor:
    """A(p), float64."""
    chosen = (score_TE + bias_E).topk(top_k, dim=-1).indices.flatten()
    return chosen.bincount(minlength=score_TE.shape[-1]).double()


def dual_value(score_TE: Tensor, bias_E: Tensor, load_E: Tensor, top_k: int) -> float:
    return float(top_k_sum(score_TE + bias_E, top_k).sum() - load_E @ bias_E)


def change(
    score_TE: Tensor, bias_E: Tensor, next_bias_E: Tensor, load_E: Tensor, top_k: int
) -> Change:
    """Both sides of the identity for one update on fixed scores."""
    old_TK = (score_TE + bias_E).topk(top_k, dim=-1).indices
    kept_T = (score_TE + next_bias_E).gather(-1, old_TK).sum(dim=-1)
    benefit_T = top_k_sum(score_TE + next_bias_E, top_k) - kept_T
    before = dual_value(score_TE, bias_E, load_E, top_k)
    after = dual_value(score_TE, next_bias_E, load_E, top_k)
    linear = (next_bias_E - bias_E) @ (loads(score_TE, bias_E, top_k) - load_E)
    return Change(after - before, float(linear), benefit_T)


def tie_density(score_TE: Tensor, bias_E: Tensor, top_k: int, width: float | None = None) -> Tensor:
    """The Hessian of E[D]/T as a graph Laplacian, (E, E), per unit of bias.

    The weight w_kl is the density at 0 of the gap between experts k and l over tokens where they
    have the ranks K and K+1. `width` must be well below the mean gap; None is `narrow_width`.
    """
    width = narrow_width(score_TE, bias_E, top_k) if width is None else width
    num_tokens, num_experts = score_TE.shape
    top = (score_TE + bias_E).topk(top_k + 1, dim=-1)
    gap_T = top.values[:, -2] - top.values[:, -1]
    near = gap_T < width
    pair = top.indices[near, -2] * num_experts + top.indices[near, -1]
    count_EE = pair.bincount(minlength=num_experts**2).view(num_experts, num_experts).double()
    # The gap is never negative, so both orders of k and l count.
    weight_EE = (count_EE + count_EE.T) / (2 * width * num_tokens)
    return torch.diag(weight_EE.sum(dim=-1)) - weight_EE


def narrow_width(score_TE: Tensor, bias_E: Tensor, top_k: int) -> float:
    """A width for `tie_density`: 2 % of the tokens have a smaller gap.

    With few tokens the share is larger, so that about ten tokens per expert count.
    """
    num_tokens, num_experts = score_TE.shape
    share = min(0.5, max(0.02, 10 * num_experts / num_tokens))
    top = (score_TE + bias_E).topk(top_k + 1, dim=-1).values
    return max(float((top[:, -2] - top[:, -1]).quantile(share)), 1e-12)


class Spectrum(NamedTuple):
    """Eigenvalues of the tie-density Laplacian on the subspace of zero-mean biases, ascending."""

    value_E: Tensor

    @property
    def modulus(self) -> float:
        """Strong convexity mu, the algebraic connectivity; 0 if groups of experts never compete."""
        return float(self.value_E[1].clamp_min(0))

    @property
    def largest(self) -> float:
        return float(self.value_E[-1])


def spectrum(hessian_EE: Tensor) -> Spectrum:
    return Spectrum(torch.linalg.eigvalsh(hessian_EE))


def minimiser(score_TE: Tensor, load_E: Tensor, top_k: int, iterations: int = 60) -> Tensor:
    """The biases with zero mean that minimise D over the given tokens.

    Takes Newton steps on the tie-density Laplacian with halving; a diagonal step would be slow
    between loosely coupled experts. Stops when every load is within half a token, or 1e-5, of its
    target, or when D no longer falls.
    """
    bias_E = torch.zeros_like(load_E)
    best = dual_value(score_TE, bias_E, load_E, top_k)
    for _ in range(iterations):
        hessian_EE = len(score_TE) * tie_density(score_TE, bias_E, top_k)
        ridge = 1e-3 * hessian_EE.diagonal().mean() + 1e-12
        eye_EE = torch.eye(len(load_E), dtype=load_E.dtype)
        error_E = load_E - loads(score_TE, bias_E, top_k)
        if error_E.abs().max() <= torch.clamp(1e-5 * load_E.max(), min=0.5):
            break
        direction_E = torch.linalg.solve(hessian_EE + ridge * eye_EE, error_E)
        found, bias_E, best = _line_search(score_TE, load_E, top_k, bias_E, direction_E, best)
        if not found:
            break
    return bias_E


def _line_search(
    score_TE: Tensor, load_E: Tensor, top_k: int, bias_E: Tensor, step_E: Tensor, best: float
) -> tuple[bool, Tensor, float]:
    """Halves the step until D falls. Returns whether it fell, the new biases and the new D."""
    for _ in range(12):
        trial_E = bias_E + step_E
        value = dual_value(score_TE, trial_E, load_E, top_k)
        if value < best - 1e-9 * len(score_TE):
            return True, trial_E - trial_E.mean(), value
        step_E = step_E / 2
    return False, bias_E, best
