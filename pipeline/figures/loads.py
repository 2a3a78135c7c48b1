"""Counts to figures: how evenly the experts are loaded. NumPy; leading dimensions are free.

Letters: A assignments of an expert, L its fair share (here `fair`), E experts, K top-k, T tokens,
S steps. Sum counts over ranks, micro-batches and time first; every ratio here comes after. Where
nothing was counted the figure is NaN, never 0.
`target_E` is the wanted share per expert (sums to 1); None is the uniform share.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Target = NDArray[np.floating[Any]] | Sequence[float] | None


class History(NamedTuple):
    """A trial's steps in order. A column that was not asked for is empty: (S, 0, 0)."""

    step_S: NDArray[np.int64]
    count_SLE: NDArray[np.int32]
    bias_SLE: NDArray[np.float32]
    scalars: dict[str, NDArray[np.float64]]  # each (S,), the names in SCALARS


def utilisation(count_E: NDArray[Any], target_E: Target = None) -> Array:
    """Load over fair share, r = A / L; 1 is fair. Shape as `count_E`."""
    count = np.asarray(count_E, dtype=np.float64)
    total = count.sum(axis=-1, keepdims=True)
    share = 1 / count.shape[-1] if target_E is None else np.asarray(target_E, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, count / (total * share), np.nan)


def max_vio(count_E: NDArray[Any], target_E: Target = None) -> Array:
    """max r - 1.  Source: Wang et al. 2024, arXiv:2408.15664, eq. (4)."""
    return utilisation(count_E, target_E).max(axis=-1) - 1


def min_vio(count_E: NDArray[Any], target_E: Target = None) -> Array:
    """min r - 1, in [-1, 0]."""
    return utilisation(count_E, target_E).min(axis=-1) - 1


def avg_vio(count_E: NDArray[Any], target_E: Target = None) -> Array:
    """mean |r - 1|."""
    return np.abs(utilisation(count_E, target_E) - 1).mean(axis=-1)


def load_cv(count_E: NDArray[Any], target_E: Target = None) -> Array:
    """Population standard deviation of r over its mean."""
    r = utilisation(count_E, target_E)
    return r.std(axis=-1) / r.mean(axis=-1)


def effective_util(count_E: NDArray[Any], target_E: Target = None) -> Array:
    """1 / max r: the busy share of a synchronous step in which everyone waits for the fullest."""
    return 1 / utilisation(count_E, target_E).max(axis=-1)


def entropy(count_E: NDArray[Any]) -> Array:
    """Shannon entropy of the load, nats; ln E is uniform."""
    pi = utilisation(count_E) / np.asarray(count_E).shape[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return -np.where(pi > 0, pi * np.log(pi), pi).sum(axis=-1)


def diversity(count_E: NDArray[Any]) -> Array:
    """exp(entropy) / E: the share of experts that an even load of the same entropy would use."""
    return np.exp(entropy(count_E)) / np.asarray(count_E).shape[-1]


def gini(count_E: NDArray[Any]) -> Array:
    """Gini index of the load: 0 is even, (E-1)/E is everything on one expert."""
    r = np.sort(utilisation(count_E), axis=-1)
    E = r.shape[-1]
    rank = np.arange(1, E + 1)
    return (2 * (rank * r).sum(axis=-1)) / (E * r.sum(axis=-1)) - (E + 1) / E


def idle_frac(count_E: NDArray[Any]) -> Array:
    """Share of experts with no token at all in the window that `count_E` covers."""
    count = np.asarray(count_E)
    return np.where(count.sum(axis=-1) > 0, (count == 0).mean(axis=-1), np.nan)


def dead_tenth(count_E: NDArray[Any], target_E: Target = None) -> Array:
    """Share of experts below a tenth of their fair share in the window that `count_E` covers."""
    r = utilisation(count_E, target_E)
    return np.where(np.isnan(r).any(axis=-1), np.nan, (r < 0.1).mean(axis=-1))


def idle_expected(tokens: int, num_experts: int, top_k: int) -> float:
    """Share of experts that uniform random routing leaves empty: (1 - K/E)^T."""
    return float((1 - top_k / num_experts) ** tokens)


def idle_streak(count_SE: NDArray[Any]) -> NDArray[np.int64]:
    """Steps without a token up to and including each step; shape as `count_SE`, steps first."""
    count = np.asarray(count_SE)
    streak = np.zeros(count.shape, dtype=np.int64)
    running = np.zeros(count.shape[1:], dtype=np.int64)
    for step, busy in enumerate(count > 0):
        running = np.where(busy, 0, running + 1)
        streak[step] = running
    return streak


def windowed(count_SE: NDArray[Any], window: int) -> NDArray[np.int64]:
    """Counts of the last `window` steps summed, at each step from the first full window on.

    Shape (S - window + 1, ...); a history shorter than the window gives one sum over all of it.
    """
    count = np.asarray(count_SE, dtype=np.int64)
    if len(count) <= window:
        return count.sum(axis=0, keepdims=True)
    total = np.concatenate([np.zeros_like(count[:1]), count.cumsum(axis=0)])
    return total[window:] - total[:-window]


@lru_cache(maxsize=512)
def max_vio_floor(tokens: int, num_experts: int, top_k: int, draws: int = 2000) -> float:
    """MaxVio that a fair router shows by chance alone: E[max over experts of A] / L - 1.

    Simulated with a fixed seed, good to about 1 %. Tokens of one sequence are correlated, so a
    real run sits somewhat above it. NaN without tokens; 0 for a single expert.
    """
    if tokens <= 0:
        return float("nan")
    if num_experts == 1:
        return 0.0
    rng = np.random.default_rng(0)
    load = rng.binomial(tokens, top_k / num_experts, size=(draws, num_experts)).astype(np.float64)
    # Differs from E independent draws: loads sum to K T, so the mean of each draw is taken out and
    # the variance that goes with it put back. Without this E=2 comes out a third too low.
    deviation = (load - load.mean(axis=1, keepdims=True)) * np.sqrt(num_experts / (num_experts - 1))
    return float(deviation.max(axis=1).mean() * num_experts / (tokens * top_k))


def ep_effective_util(count_E: NDArray[Any], ranks: int) -> Array:
    """mean / max load over expert-parallel ranks, experts placed in order, E / ranks on each.

    Raises:   ValueError: E is no multiple of `ranks`
    """
    count = np.asarray(count_E, dtype=np.float64)
    E = count.shape[-1]
    if E % ranks:
        raise ValueError(f"num_experts={E} is no multiple of ranks={ranks}; choose a divisor")
    load = count.reshape(*count.shape[:-1], ranks, E // ranks).sum(axis=-1)
    return 1 / utilisation(load).max(axis=-1)


def step_scalars(count_LE: NDArray[Any], target_E: Target = None) -> dict[str, float]:
    """The figures of one step under their fixed names: mean over layers, `_worst` the worst one."""
    vio_L = max_vio(count_LE, target_E)
    return {
        "max_vio": float(vio_L.mean()),
        "max_vio_worst": float(vio_L.max()),
        "min_vio": float(min_vio(count_LE, target_E).mean()),
        "avg_vio": float(avg_vio(count_LE, target_E).mean()),
        "load_cv": float(load_cv(count_LE, target_E).mean()),
        "diversity": float(diversity(count_LE).mean()),
        "idle_frac": float(idle_frac(count_LE).mean()),
        "idle_frac_worst": float(idle_frac(count_LE).max()),
        "effective_util": float(effective_util(count_LE, target_E).mean()),
    }


def summarise(
    count_SLE: NDArray[Any], *, tokens_per_step: int, top_k: int, target_E: Target = None
) -> dict[str, float]:
    """A run's balance in figures, all steps given.

    "Steady" figures are means over the last quarter of the steps. `idle_frac` counts experts
    without a token in one step; the dead ones are judged over the last 100 steps (fewer where
    there are fewer), the window that `dead_window` states.
    """
    S, _, E = count_SLE.shape
    steady_SLE = count_SLE[-max(1, S // 4) :]
    window = min(100, S)
    recent_LE = np.asarray(count_SLE[-window:], dtype=np.int64).sum(axis=0)
    vio_S = max_vio(count_SLE, target_E).mean(axis=-1)
    floor = max_vio_floor(tokens_per_step, E, top_k)
    steady_vio = float(vio_S[-len(steady_SLE) :].mean())
    return {
        "max_vio": steady_vio,
        "max_vio_floor": floor,
        "max_vio_ratio": steady_vio / floor if floor > 0 else float("nan"),
        "avg_max_vio": float(vio_S.mean()),
        "sup_max_vio": float(vio_S.max()),
        "load_cv": float(load_cv(steady_SLE, target_E).mean()),
        "effective_util": float(effective_util(steady_SLE, target_E).mean()),
        "idle_frac": float(idle_frac(steady_SLE).mean()),
        "idle_expected": idle_expected(tokens_per_step, E, top_k),
        "dead_zero": float(idle_frac(recent_LE).mean()),
        "dead_tenth": float(dead_tenth(recent_LE, target_E).mean()),
        "dead_window": float(window),
        "idle_streak_max": float(idle_streak(count_SLE).max()),
        "count_check": float(
            (np.asarray(count_SLE, dtype=np.int64).sum(axis=-1) == tokens_per_step * top_k).all()
        ),
    }
