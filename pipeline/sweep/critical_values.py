"""Critical values for several comparisons at once: Dunnett's and Tukey's.

All are for differences of means in units of their standard error. They hold exactly for equal
numbers of seeds, and are good approximations for unequal ones.
"""

from collections.abc import Callable
from functools import lru_cache
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]
MOST_FREEDOM = 400  # more degrees of freedom count as a known standard deviation
NODES = 96


@lru_cache(4096)
def dunnett(others: int, freedom: int, alpha: float, sides: int = 1) -> float:
    """One setting against `others`: with probability 1 - alpha no difference is further off.

    Source:   Dunnett 1955, A multiple comparison procedure for comparing several treatments
    """

    def inside(distance: Grid, normal: Grid) -> Grid:
        low = 0.0 if sides == 1 else _normal_cdf(normal - distance)
        return (_normal_cdf(normal + distance) - low) ** others

    return _solve(inside, freedom, alpha)


@lru_cache(4096)
def dunnett_moderated(others: int, freedom: int, alpha: float, sides: int = 1) -> float:
    """Dunnett's value for settings that have variances of their own, as moderated ones are.

    Dunnett's differences share one estimate of the variance. With one for each setting the furthest
    of many differences is further off, so every single one is widened as Student's t widens it.
    """
    from scipy.special import ndtri, stdtrit

    if freedom < 1:
        return inf
    inside = 1 - alpha / (sides * others)
    known = dunnett(others, MOST_FREEDOM + 1, alpha, sides)
    return float(known * stdtrit(freedom, inside) / ndtri(inside))


@lru_cache(4096)
def tukey(settings: int, freedom: int, alpha: float) -> float:
    """All pairs of `settings`: the studentised range's quantile over the square root of two.

    Source:   Tukey 1953; Kramer 1956 for unequal numbers
    """

    def inside(distance: Grid, normal: Grid) -> Grid:
        within = _normal_cdf(normal) - _normal_cdf(normal - distance)
        return settings * within ** (settings - 1)

    return _solve(inside, freedom, alpha)


def _solve(inside: Callable[[Grid, Grid], Grid], freedom: int, alpha: float) -> float:
    """The value at which `inside`, averaged over the means' and the variance's noise, is 1 - alpha.

    Args:     inside: of the distance, in standard deviations of a mean, and one normal mean
    """
    from scipy.optimize import brentq  # scipy is slow to import, and many callers only count trials

    if freedom < 1:
        return inf
    normal, weight = np.polynomial.hermite_e.hermegauss(NODES)
    weight = weight / weight.sum()
    ratio, ratio_weight = _deviation_ratios(freedom)

    def excess(value: float) -> float:
        chance = inside(sqrt(2) * value * ratio[:, None], normal[None, :])
        return float(ratio_weight @ chance @ weight) - (1 - alpha)

    high = 4.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-4))


def _deviation_ratios(freedom: int) -> tuple[Grid, Grid]:
    """Values and weights of the estimated standard deviation over the true one."""
    if freedom > MOST_FREEDOM:
        return np.ones(1), np.ones(1)
    from scipy.special import chdtri

    node, weight = np.polynomial.legendre.leggauss(NODES)
    return np.sqrt(chdtri(freedom, (1 - node) / 2) / freedom), weight / 2


def _normal_cdf(value: Grid) -> Grid:
    from scipy.special import ndtr

    return np.asarray(ndtr(value))
