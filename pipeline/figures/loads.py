"""Figures that tell from counts how evenly the experts are loaded. All leading dimensions are free.

Sum counts over ranks, micro-batches and time before calling these functions, which form ratios. A
figure is NaN, and never 0, if nothing was counted. `target_E` is the target share per expert, which
sums to 1; None means the uniform share.

Letters: A assignments of an expert, L its fair share, E experts, K top-k, T tokens, S steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.spec.trial import TrialSpec

Array = NDArray[np.floating[Any]]
Target = NDArray[np.floating[Any]] | Sequence[float] | None
FLOOR_DRAWS = 2000
DEAD_WINDOW = 100  # number of last steps over which dead experts are determined
BLOCK_COUNTS = 2**18  # counts that are looked at together


class History(NamedTuple):
    """A trial's steps in order. A column that was not read has the shape (S, 0, 0)."""

    step_S: NDArray[np.int64]
    count_SLE: NDArray[np.int32]
    bias_SLE: NDArray[np.float32]
    scalars: dict[str, NDArray[np.float64]]  # each (S,), the names in SCALARS

    def of(self, steps: slice | NDArray[np.bool_]) -> "History":
        """Some of the steps."""
        scalars = {name: values[steps] for name, values in self.scalars.items()}
        return History(self.step_S[steps], self.count_SLE[steps], self.bias_SLE[steps], scalars)


@dataclass(frozen=True)
class Loads:
    """Recorded loads of some steps (S = 1 for a single one), with the number of tokens and the
    target that they are compared with."""

    count_SLE: NDArray[Any]
    tokens: int  # of each step
    top_k: int
    target_E: Target = None

    @classmethod
    def of(
        cls, spec: TrialSpec, count_SLE: NDArray[Any] | None = None, tokens: int | None = None
    ) -> Self:
        """Loads of a trial. Without counts, only figures of chance can be computed.

        Args:     tokens: tokens per entry of `count_SLE`; None: those of an optimizer step
        """
        shape = spec.model.load_shape
        if count_SLE is None:
            count_SLE = np.zeros((0, shape.num_layers, shape.num_experts), np.int32)
        tokens = spec.train.tokens_per_step if tokens is None else tokens
        return cls(count_SLE, tokens, shape.top_k, spec.balancer.target)

    @property
    def steady_SLE(self) -> NDArray[Any]:
        """The last quarter of the steps."""
        return self.count_SLE[-max(1, len(self.count_SLE) // 4) :]

    @property
    def dead_window(self) -> int:
        return min(DEAD_WINDOW, len(self.count_SLE))

    @property
    def recent_LE(self) -> NDArray[np.int64]:
        """Sum of counts over the dead window."""
        return self.count_SLE[-self.dead_window :].sum(axis=0, dtype=np.int64)

    @cached_property
    def max_vio_S(self) -> Array:
        """MaxVio of every step, mean over layers."""
        return by_blocks(max_vio, self.count_SLE, self.target_E).mean(axis=-1)

    @property
    def max_vio_floor(self) -> float:
        return max_vio_floor(self.tokens, self.count_SLE.shape[-1], self.top_k, self.target_E)

    @property
    def idle_expected(self) -> float:
        return idle_expected(self.tokens, self.count_SLE.shape[-1], self.top_k, self.target_E)


def by_blocks(figure: Callable[..., Array], count_SLE: NDArray[Any], *others: Any) -> Array:
    """`figure(count_SLE, *others)`, (S, L), for a long run that does not fit into memory."""
    size = max(1, BLOCK_COUNTS // max(1, count_SLE[:1].size))
    starts = range(0, max(1, len(count_SLE)), size)
    return np.concatenate([figure(count_SLE[start : start + size], *others) for start in starts])


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
    """1 / max r: the busy share of a synchronous step in which all wait for the fullest expert."""
    return 1 / utilisation(count_E, target_E).max(axis=-1)


def entropy(count_E: NDArray[Any]) -> Array:
    """Shannon entropy of the load, nats; ln E is uniform."""
    pi = utilisation(count_E) / np.asarray(count_E).shape[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return -np.where(pi > 0, pi * np.log(pi), pi).sum(axis=-1)


def diversity(count_E: NDArray[Any]) -> Array:
    """exp(entropy) / E: the share of experts that an even load of the same entropy would use."""
    return np.exp(entropy(count_E)) / np.asarray(count_E).shape[-1]


def idle_frac(count_E: NDArray[Any]) -> Array:
    """Share of experts with no token at all in the window that `count_E` covers."""
    count = np.asarray(count_E)
    return np.where(count.sum(axis=-1) > 0, (count == 0).mean(axis=-1), np.nan)


def dead_tenth(count_E: NDArray[Any], target_E: Target = None) -> Array:
    """Share of experts below a tenth of their fair share in the window that `count_E` covers."""
    r = utilisation(count_E, target_E)
    return np.where(np.isnan(r).any(axis=-1), np.nan, (r < 0.1).mean(axis=-1))


def idle_expected(tokens: int, num_experts: int, top_k: int, target_E: Target = None) -> float:
    """Share of experts that random routing leaves idle: mean of (1 - q)^T for a probability q."""
    return float(((1 - _chance(num_experts, top_k, target_E)) ** tokens).mean())


def idle_streak(count_SE: NDArray[Any]) -> NDArray[np.int64]:
    """Number of idle steps up to and including each step; shape as `count_SE`, steps first."""
    count = np.asarray(count_SE)
    streak = np.zeros(count.shape, dtype=np.int64)
    running = np.zeros(count.shape[1:], dtype=np.int64)
    for step, busy in enumerate(count > 0):
        running = np.where(busy, 0, running + 1)
        streak[step] = running
    return streak


def idle_streak_max(count_SE: NDArray[Any]) -> int:
    """The largest value of `idle_streak`."""
    longest, running = 0, np.zeros(count_SE.shape[1:], dtype=np.int64)
    for count_E in count_SE:
        running = np.where(count_E > 0, 0, running + 1)
        longest = max(longest, int(running.max()))
    return longest


def max_vio_floor(tokens: int, num_experts: int, top_k: int, target_E: Target = None) -> float:
    """MaxVio that a fair router shows by chance alone: E[max over experts of A / L] - 1.

    It is simulated with a fixed seed, with an error of about 1 %. Real runs are somewhat above it,
    because the tokens of a sequence are correlated. NaN without tokens; 0 if K = E.
    """
    return _floor(tokens, num_experts, top_k, None if target_E is None else tuple(target_E))


@lru_cache(maxsize=512)
def _floor(tokens: int, num_experts: int, top_k: int, target_E: tuple[float, ...] | None) -> float:
    if tokens <= 0:
        return float("nan")
    chance_E = _chance(num_experts, top_k, target_E)
    variance_E = chance_E * (1 - chance_E)
    if not variance_E.any():  # every token goes to every expert
        return 0.0
    rng = np.random.default_rng(0)
    load = rng.binomial(tokens, chance_E, size=(FLOOR_DRAWS, num_experts)).astype(np.float64)
    # Loads sum to K T, but independent draws do not. So the surplus of a draw is removed, and the
    # variance that this removes is restored. Without this, the value for E=2 is a third too low.
    share_E = variance_E / variance_E.sum()
    surplus = load - tokens * chance_E
    deviation = (surplus - share_E * surplus.sum(axis=1, keepdims=True)) / np.sqrt(1 - share_E)
    return float((deviation / (tokens * chance_E)).max(axis=1).mean())


def _chance(num_experts: int, top_k: int, target_E: Target) -> Array:
    """Probability that a fair router sends a token to each expert."""
    share_E = np.full(num_experts, 1 / num_experts) if target_E is None else np.asarray(target_E)
    return top_k * share_E


def ep_effective_util(count_E: NDArray[Any], ranks: int) -> Array:
    """mean / max load over expert-parallel ranks.  Raises: ValueError: as `rank_load`"""
    return 1 / rank_load(count_E, ranks).max(axis=-1)


def rank_load(count_E: NDArray[Any], ranks: int) -> Array:
    """Load of each expert-parallel rank over the mean one, with E / ranks experts each in order.

    Raises:   ValueError: E is not a multiple of `ranks`
    """
    count = np.asarray(count_E, dtype=np.float64)
    E = count.shape[-1]
    if E % ranks:
        raise ValueError(f"num_experts={E} is not a multiple of ranks={ranks}; choose a divisor")
    load = count.reshape(*count.shape[:-1], ranks, E // ranks).sum(axis=-1)
    return utilisation(load)
