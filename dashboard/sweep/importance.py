"""How much each parameter of a sweep influences a figure.

The importance is a parameter's share of the variance over trials: what it adds to an additive model
of the parameters, averaged over all orders in which they can be added. So parameters that go
together, such as a rule and its step size, divide what they explain, and the shares add up to at
most 1. Explained variance is corrected for chance (epsilon squared). The rest is due to
interactions and seeds.

Source: Lindeman, Merenda & Gold 1980, Introduction to bivariate and multivariate analysis (averages
over orders); Kelley 1935, An unbiased correlation ratio measure (epsilon squared).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evenload.dashboard.record_tables import figure, leaves
from evenload.pipeline.states import TrialRecord

ABSENT = "–"  # the value of a parameter that a trial's rule does not have
MAX_LEVELS = 8  # numbers with more levels are grouped into quarters
MAX_ORDERS = 120  # of more parameters than five, so many orders are drawn
METHOD = (
    "Share of the variance over trials that a parameter explains in an additive model of all of "
    "them, averaged over the orders in which they are added, without what chance explains. The "
    "rest is due to interactions and seeds."
)


class Parameter(NamedTuple):
    """A key of the spec that differs between trials."""

    key: str
    values: list[Any]  # one per trial; ABSENT if its spec lacks the key

    @property
    def name(self) -> str:
        """A short name: `rule`, or the last part of the key."""
        last = self.key.rpartition(".")[2].replace("_", " ")
        return "rule" if self.key == "balancer.kind" else last

    @property
    def is_number(self) -> bool:
        return all(_is_number(value) for value in self.values if value != ABSENT)

    @property
    def levels(self) -> list[Any]:
        """Distinct values: numbers ascending with ABSENT first, others in the order of trials."""
        distinct = list(dict.fromkeys(self.values))
        if self.is_number:
            distinct.sort(key=lambda value: -math.inf if value == ABSENT else value)
        return distinct


def varying(trials: Sequence[TrialRecord]) -> list[Parameter]:
    """The parameters that have several values, in the order of the spec.

    A parameter with a single value that only some rules have is left out.
    """
    flat = [
        {key: tuple(leaf) if isinstance(leaf, list) else leaf for key, leaf in leaves(trial.spec)}
        for trial in trials
    ]
    keys = list(dict.fromkeys(key for spec in flat for key in spec))
    found = [Parameter(key, [spec.get(key, ABSENT) for spec in flat]) for key in keys]
    return [one for one in found if len(set(one.levels) - {ABSENT}) > 1]


def importance(
    trials: Sequence[TrialRecord], parameters: Sequence[Parameter], name: str
) -> dict[str, float]:
    """Name -> share of the variance of the figure, from 0 to 1; NaN if it cannot be determined.

    Trials without the figure are left out. Together the shares are at most 1. Without repetitions,
    influence cannot be told from chance, and all are NaN.
    """
    value_T = np.array([figure(trial, name) for trial in trials])
    known_T = np.isfinite(value_T)
    groups = {
        parameter.name: [
            group for group, is_known in zip(_groups(parameter), known_T, strict=True) if is_known
        ]
        for parameter in parameters
    }
    found = shares(value_T[known_T], list(groups.values()))
    return dict(zip(groups, found, strict=True))


def shares(value_T: NDArray[np.float64], groups: Sequence[Sequence[Any]]) -> list[float]:
    """What each grouping of the values explains, averaged over the orders of adding them."""
    dummies = [pd.get_dummies(pd.Series(map(str, group_T))).to_numpy(float) for group_T in groups]
    explained: dict[frozenset[int], float] = {frozenset(): 0.0}

    def worth(some: frozenset[int]) -> float:
        if some not in explained:
            explained[some] = epsilon_squared(value_T, [dummies[at] for at in sorted(some)])
        return explained[some]

    if math.isnan(worth(frozenset(range(len(groups))))):
        return [math.nan] * len(groups)
    added = np.zeros(len(groups))
    orders = _orders(len(groups))
    for order in orders:
        for place, at in enumerate(order):
            before = frozenset(order[:place])
            added[at] += (worth(before | {at}) - worth(before)) / len(orders)
    added = np.maximum(added, 0)
    return (added / max(1.0, added.sum())).tolist()


def epsilon_squared(value_T: NDArray[np.float64], dummies: Sequence[NDArray[np.float64]]) -> float:
    """The share of the variance that the groups explain together, less what chance explains.

    NaN if the values do not vary or leave no degree of freedom.
    """
    total = float(((value_T - value_T.mean()) ** 2).sum()) if len(value_T) else 0.0
    if total == 0:
        return math.nan
    design_TP = np.column_stack([np.ones(len(value_T)), *dummies])
    best_P, _, rank, _ = np.linalg.lstsq(design_TP, value_T)
    within = len(value_T) - int(rank)
    if rank < 2:
        return 0.0
    if within < 1:
        return math.nan
    left = float(((value_T - design_TP @ best_P) ** 2).sum())
    return 1 - left / within * (len(value_T) - 1) / total


def _orders(count: int) -> list[Sequence[int]]:
    """All orders of few parameters; of many, some that are always the same."""
    if math.factorial(count) <= MAX_ORDERS:
        return list(itertools.permutations(range(count)))
    rng = np.random.default_rng(0)
    return [rng.permutation(count).tolist() for _ in range(MAX_ORDERS)]


def _groups(parameter: Parameter) -> list[Any]:
    """The level of every trial; for numbers with many levels their quarter."""
    if not parameter.is_number or len(parameter.levels) <= MAX_LEVELS:
        return parameter.values
    numbers = [float(value) for value in parameter.values if value != ABSENT]
    edges = np.quantile(numbers, [0.25, 0.5, 0.75])
    return [
        ABSENT if value == ABSENT else int(np.searchsorted(edges, float(value)))
        for value in parameter.values
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
