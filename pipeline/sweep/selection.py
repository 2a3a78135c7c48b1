"""Which settings have a loss near the least one, and which of them are equally even.

Loss is compared by multiple comparisons with the best: all settings whose true loss is within the
margin of the least one can be named, and the probability that any setting is named wrongly is at
most alpha. Evenness is compared by simultaneous intervals of all pairs. Letters: S settings,
N seeds.

Source:   Hsu 1984, Constrained simultaneous confidence intervals for multiple comparisons with the
          best; Nelson & Matejcik 1995, for seeds as common random numbers. How often each statement
          is wrong is simulated by `infra/research/answer_characteristics.py`.
"""

from bisect import bisect_left
from math import ceil, inf, isfinite, nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.sweep.critical_values import dunnett, dunnett_moderated, tukey
from evenload.pipeline.sweep.seed_fit import SeedFit, Values, fit_seeds

ALPHA = 0.05  # probability of any wrong statement in all looks at one comparison together
ASSUMED_DEVIATION = 0.33  # of log MaxVio over seeds, for one seed: the largest of eight measured
MOST_SEEDS = 200
POWER = 0.8

Flags = NDArray[np.bool_]


class LossSelection(NamedTuple):
    """Losses of settings over seeds, and which can be named at this margin."""

    fit: SeedFit
    high_S: Values  # bound on how much a setting's loss is above the least loss of the others
    low_S: Values  # the lower bound on it
    passes_S: Flags  # within the margin of the least loss
    is_out_S: Flags  # above the least loss by more than the margin
    margin: float
    critical: float  # Dunnett's one-sided value


class Evenness(NamedTuple):
    """The logarithm of MaxVio over its floor, compared between all pairs of settings."""

    fit: SeedFit
    half_SS: Values  # half of the simultaneous interval of a difference
    is_assumed: bool  # whether the noise is not measured but assumed, because there is one seed

    def is_tied(self, one: int, other: int) -> bool:
        difference = self.fit.mean_S[one] - self.fit.mean_S[other]
        return bool(abs(difference) <= self.half_SS[one, other])


def alpha_of_look(look: int) -> float:
    """The share of ALPHA that the given look may spend: half of it, then a quarter, ....

    The first look is at the planned seeds, and every extension adds one.
    """
    return ALPHA / 2**look


def select_by_loss(loss_SN: Values, margin: float, alpha: float) -> LossSelection:
    """Compares each setting with the best of the others, with the seeds as blocks.

    With one seed the noise is unknown, so no setting passes and none is out.

    Args:     loss_SN: at least two settings, each with a value; holes are NaN
    """
    fit = fit_seeds(loss_SN, is_blocked=True)
    settings = len(loss_SN)
    if fit.freedom < 1:
        unknown_S, no_S = np.full(settings, nan), np.zeros(settings, bool)
        return LossSelection(fit, unknown_S, unknown_S, no_S, no_S, margin, nan)
    one_sided = dunnett_moderated(settings - 1, fit.freedom, round(alpha, 6))
    two_sided = dunnett_moderated(settings - 1, fit.freedom, round(alpha, 6), sides=2)
    above_SS = fit.mean_S[:, None] - fit.mean_S
    error_SS = fit.error_SS
    high_S = _without_self(above_SS + one_sided * error_SS, -np.inf).max(axis=1)
    may_be_best_S = _without_self(above_SS - two_sided * error_SS, -np.inf).max(axis=1) <= 0
    low_SS = _without_self(above_SS - two_sided * error_SS, np.inf)
    low_S = np.where(may_be_best_S, low_SS, np.inf).min(axis=1)
    low_S = np.where(np.isfinite(low_S), low_S, 0.0)
    return LossSelection(fit, high_S, low_S, high_S <= margin, low_S > margin, margin, one_sided)


def differences(fit: SeedFit, control: int) -> tuple[Values, Values]:
    """Means minus that of the control, and half of their simultaneous 95 % intervals.

    The halves are NaN with one seed. Source: Dunnett 1955, two-sided.
    """
    above_S = fit.mean_S - fit.mean_S[control]
    if fit.freedom < 1 or len(above_S) < 2:
        return above_S, np.full_like(above_S, nan)
    critical = dunnett_moderated(len(above_S) - 1, fit.freedom, ALPHA, sides=2)
    return above_S, critical * fit.error_SS[control]


def compare_evenness(log_SN: Values, alpha: float) -> Evenness:
    """Compares log MaxVio over floor between all pairs of settings.

    Seeds are no blocks here: measured, they explain nothing of it.

    Args:     log_SN: at least two settings, each with a value; holes are NaN
    """
    fit = fit_seeds(log_SN, is_blocked=False)
    is_assumed = fit.freedom < 1
    if is_assumed:
        assumed_S = np.full(len(log_SN), ASSUMED_DEVIATION**2)
        fit = fit._replace(variance_S=assumed_S, freedom=10_000)
    half_SS = tukey(len(log_SN), fit.freedom, round(alpha, 6)) * fit.error_SS
    return Evenness(fit, half_SS, is_assumed)


def seeds_to_settle(settings: int, deviation: float, margin: float, alpha: float) -> int | None:
    """Seeds with which a setting can be named even if all losses are equal; None above 200.

    Source:   Nelson & Matejcik 1995, the second stage's number of blocks
    """
    if not (isfinite(deviation) and margin > 0):
        return None

    def is_enough(seeds: int) -> bool:
        critical = dunnett(settings - 1, (settings - 1) * (seeds - 1), round(alpha, 6))
        return seeds >= ceil(2 * (critical * deviation / margin) ** 2)

    enough = bisect_left(range(MOST_SEEDS + 1), True, lo=2, key=is_enough)
    return enough if enough <= MOST_SEEDS else None


def detectable(fit: SeedFit, seeds: int) -> float:
    """The difference to the control that would be shown in a share of POWER of such sweeps.

    The unit is that of the loss; infinite with one seed.

    Args:     fit: of as many settings, with this noise; `seeds` may be other ones than it has
    Source:   Student's noncentral t with the critical value of `differences`
    """
    from scipy.special import nctdtrinc

    settings, most = len(fit.mean_S), (len(fit.mean_S) - 1) * (seeds - 1)
    freedom = most if fit.is_pooled else min(most, fit.freedom)
    if freedom < 1 or fit.freedom < 1:
        return inf
    critical = dunnett_moderated(settings - 1, freedom, ALPHA, sides=2)
    away = nctdtrinc(freedom, 1 - POWER, critical)  # in standard errors of a difference
    return float(away * fit.deviation * sqrt(2 / seeds))


def seeds_to_detect(fit: SeedFit, difference: float) -> int | None:
    """Seeds with which such a difference would be shown in a share of POWER; None above 200."""
    enough = bisect_left(
        range(MOST_SEEDS + 1), True, lo=2, key=lambda seeds: detectable(fit, seeds) <= difference
    )
    return enough if enough <= MOST_SEEDS else None


def _without_self(value_SS: Values, filler: float) -> Values:
    changed_SS = value_SS.copy()
    np.fill_diagonal(changed_SS, filler)
    return changed_SS
