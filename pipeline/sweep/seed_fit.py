"""Means of settings over seeds with their noise, from a table that may have holes.

Letters: S settings, N seeds. A hole is NaN.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


class SeedFit(NamedTuple):
    """Least-squares means of settings, and what is needed for the error of their differences."""

    mean_S: Values
    factor_SS: Values  # variance of a difference over that of one run; inf if it is not estimable
    variance_S: Values  # of one run, after the levels of the seeds are taken out
    freedom: int  # degrees of freedom of the variances; 0: the noise is unknown
    is_pooled: bool  # whether all settings share one variance

    @property
    def deviation(self) -> float:
        """The standard deviation of one run, a mean over the settings."""
        return float(np.sqrt(self.variance_S.mean()))

    @property
    def error_SS(self) -> Values:
        """The standard error of every difference."""
        return np.sqrt(self.factor_SS * (self.variance_S[:, None] + self.variance_S) / 2)


def fit_seeds(value_SN: Values, is_blocked: bool) -> SeedFit:
    """Fits the settings' means, with a level per seed if `is_blocked`.

    Every setting needs a value. A level per seed removes what all settings at one seed share, such
    as the order of the data. Variances are moderated as far as they differ beyond chance, and
    pooled if they do not; a test of equal variances misses most differences with few seeds.

    Source:   Searle 1971, Linear models, two-way classification with missing cells
    """
    is_known_SN = np.isfinite(value_SN)
    known_SN = is_known_SN.astype(float)
    value_SN = np.where(is_known_SN, value_SN, 0.0)
    if not is_blocked:
        count_S = known_SN.sum(axis=1)
        mean_S = value_SN.sum(axis=1) / count_S
        rest_SN = (value_SN - mean_S[:, None]) * known_SN
        factor_SS = 1 / count_S[:, None] + 1 / count_S
        return _fit(mean_S, factor_SS, rest_SN, known_SN * (1 - 1 / count_S[:, None]))
    value_SN, known_SN = (table[:, is_known_SN.any(axis=0)] for table in (value_SN, known_SN))
    share_SN = known_SN / known_SN.sum(axis=0)  # of each setting in the seed's mean
    inverse_SS = np.linalg.pinv(np.diag(known_SN.sum(axis=1)) - share_SN @ known_SN.T)
    seed_mean_N = (value_SN * share_SN).sum(axis=0)
    mean_S = inverse_SS @ ((value_SN - seed_mean_N) * known_SN).sum(axis=1)
    level_N = seed_mean_N - mean_S @ share_SN
    rest_SN = (value_SN - mean_S[:, None] - level_N) * known_SN
    spread_S = np.diag(inverse_SS)
    factor_SS = spread_S[:, None] + spread_S - 2 * inverse_SS
    factor_SS[~_is_linked(known_SN)] = np.inf
    # The share of a run's noise that stays in its residual: one minus its leverage.
    shared_SN = inverse_SS @ share_SN
    leverage_SN = (
        1 / known_SN.sum(axis=0)
        + spread_S[:, None]
        - 2 * shared_SN
        + (share_SN * shared_SN).sum(axis=0)
    )
    return _fit(mean_S + level_N.mean(), factor_SS, rest_SN, known_SN * (1 - leverage_SN))


def _fit(mean_S: Values, factor_SS: Values, rest_SN: Values, free_SN: Values) -> SeedFit:
    square_S, free_S = (rest_SN**2).sum(axis=1), free_SN.sum(axis=1)
    freedom = round(free_S.sum())
    if freedom < 1:
        unknown_S = np.full_like(mean_S, np.nan)
        return SeedFit(mean_S, factor_SS, unknown_S, 0, is_pooled=True)
    pooled = float(square_S.sum() / freedom)
    is_usable_S = free_S > 0.3
    variance_S = np.where(is_usable_S, square_S / np.maximum(free_S, 1e-9), pooled)
    if len(mean_S) > 2 and is_usable_S.all() and pooled > 0:
        moderated_S, prior = _moderated(variance_S, free_S)
        if np.isfinite(prior):
            few = int(min(prior + free_S.min(), freedom))
            return SeedFit(mean_S, factor_SS, moderated_S, max(few, 1), is_pooled=False)
    return SeedFit(mean_S, factor_SS, np.full_like(mean_S, pooled), freedom, is_pooled=True)


def _is_linked(known_SN: Values) -> NDArray[np.bool_]:
    """Whether two settings are linked by common seeds, directly or through others."""
    linked_SS = (known_SN @ known_SN.T) > 0
    for _ in range(len(linked_SS).bit_length()):
        linked_SS = (linked_SS.astype(float) @ linked_SS) > 0
    return linked_SS


def _moderated(variance_S: Values, free_S: Values) -> tuple[Values, float]:
    """Variances drawn towards a common one, and the degrees of freedom of that prior.

    The more the variances differ beyond chance, the weaker is the prior; infinite if they do not.

    Source:   Smyth 2004, Linear models and empirical Bayes methods, section 6.2
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, zeta  # zeta(2, x) is the trigamma function

    log_S = np.log(np.maximum(variance_S, 1e-12 * variance_S.max()))
    log_S = log_S - digamma(free_S / 2) + np.log(free_S / 2)
    beyond = float(log_S.var(ddof=1) - zeta(2, free_S / 2).mean())
    if beyond <= zeta(2, 500.0):
        return variance_S, np.inf
    half = brentq(lambda half: float(zeta(2, half)) - beyond, 1e-3, 500.0)
    prior = 2 * float(half)
    level = float(np.exp(log_S.mean() + digamma(half) - np.log(half)))
    return (prior * level + free_S * variance_S) / (prior + free_S), prior
