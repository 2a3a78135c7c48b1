"""Computes the exact optimum: the balanced assignment of largest total score, with its prices.

    max sum_ik score_ik x_ik   with  sum_k x_ik = K,  sum_i x_ik = L_k,  0 <= x_ik <= 1

The matrix is totally unimodular, so the linear program has an integral optimum if every L_k is an
integer. The prices of the expert rows are the biases with which plain top-k chooses this optimum.
Uses float64 on the CPU; up to about 1e5 cells take seconds.

Letters: T tokens, E experts, K top-k.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

Scores = NDArray[np.floating[Any]]
Loads = NDArray[np.floating[Any]]


class Assignment(NamedTuple):
    choice_TE: NDArray[np.float64]  # share of each expert in each token; 0 or 1 except for ties
    price_E: NDArray[np.float64]  # bias per expert with zero mean; a positive one attracts tokens
    value: float  # total score


class Gap(NamedTuple):
    """Distance of a routing from the optimum. Values are total scores of the chosen experts."""

    value: float
    unconstrained: float  # plain top-k
    balanced: float  # optimum with uniform loads
    matched: float  # optimum whose largest load is at most that of the routing

    @property
    def over_span(self) -> float:
        """Score lost beyond the cost of this balance, divided by the cost of full balance."""
        span = self.unconstrained - self.balanced
        return (self.matched - self.value) / span if span > 0 else float("nan")


def balanced_assignment(score_TE: Scores, top_k: int, load_E: Loads | None = None) -> Assignment:
    """The optimum with the wanted loads, by default uniform ones.

    Raises:   ValueError: no assignment has these loads
    """
    num_tokens, num_experts = score_TE.shape
    load_E = np.full(num_experts, num_tokens * top_k / num_experts) if load_E is None else load_E
    if abs(load_E.sum() - num_tokens * top_k) > 1e-6 * num_tokens or load_E.max() > num_tokens:
        raise ValueError(
            f"load_E sums to {load_E.sum():g} with a largest of {load_E.max():g}; it must sum to "
            f"tokens * top_k = {num_tokens * top_k} with none above tokens = {num_tokens}"
        )
    tokens, experts = _incidence(num_tokens, num_experts)
    rows = sparse.vstack([tokens, experts], format="csr")
    wanted = np.concatenate([np.full(num_tokens, float(top_k)), load_E])
    solved = _solve(score_TE, A_eq=rows, b_eq=wanted)
    # linprog minimises -score, so the marginal of an expert's row is a bias that attracts tokens.
    return _assignment(score_TE, solved, solved.eqlin.marginals[num_tokens:])


def capped_assignment(score_TE: Scores, top_k: int, cap: float) -> Assignment:
    """The optimum in which no expert has more than `cap` tokens."""
    num_tokens, num_experts = score_TE.shape
    tokens, experts = _incidence(num_tokens, num_experts)
    solved = _solve(
        score_TE,
        A_eq=tokens,
        b_eq=np.full(num_tokens, float(top_k)),
        A_ub=experts,
        b_ub=np.full(num_experts, float(cap)),
    )
    return _assignment(score_TE, solved, solved.ineqlin.marginals)


def optimality_gap(score_TE: Scores, expert_TK: NDArray[np.int64]) -> Gap:
    """Compares a routing with the best one and with the best one that is equally balanced."""
    top_k = expert_TK.shape[1]
    load_E = np.bincount(expert_TK.ravel(), minlength=score_TE.shape[1])
    best_TK = -np.partition(-score_TE, top_k - 1, axis=1)[:, :top_k]
    return Gap(
        value=float(np.take_along_axis(score_TE, expert_TK, axis=1).sum()),
        unconstrained=float(best_TK.sum()),
        balanced=balanced_assignment(score_TE, top_k).value,
        matched=capped_assignment(score_TE, top_k, float(load_E.max())).value,
    )


def _incidence(num_tokens: int, num_experts: int) -> tuple[Any, Any]:
    """The cells of the flattened score matrix that belong to each token and to each expert."""
    tokens = sparse.kron(sparse.eye(num_tokens), np.ones((1, num_experts)), format="csr")
    experts = sparse.kron(np.ones((1, num_tokens)), sparse.eye(num_experts), format="csr")
    return tokens, experts


def _solve(score_TE: Scores, **constraints: Any) -> Any:
    # Dual simplex ends at a vertex, with integral choices and prices at which few tokens tie.
    solved = linprog(-score_TE.ravel(), bounds=(0, 1), method="highs-ds", **constraints)
    if not solved.success:
        raise ValueError(f"no assignment has these loads: {solved.message}")
    return solved


def _assignment(score_TE: Scores, solved: Any, price_E: NDArray[np.float64]) -> Assignment:
    choice_TE = solved.x.reshape(score_TE.shape)
    return Assignment(choice_TE, price_E - price_E.mean(), float(-solved.fun))
