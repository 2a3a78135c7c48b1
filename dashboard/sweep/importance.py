"""Which parameter of a sweep moves a figure, and by how much.

The share of a figure's variance over the trials that a parameter's levels explain: epsilon
squared of a one-way analysis of variance, the main effect of a functional ANOVA with the chance
part taken off. What no single parameter explains is interactions and the luck of the seed.
Source: Kelley 1935, An unbiased correlation ratio measure (epsilon squared); Hutter, Hoos &
Leyton-Brown 2014, An efficient approach for assessing hyperparameter importance (main effects).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.dashboard.record_tables import figure
from evenload.pipeline.states import TrialRecord

ABSENT = "–"  # a parameter that a trial's rule does not have
MAX_LEVELS = 8  # numbers with more levels are judged by their quarters
METHOD = (
    "Share of the variance over trials that a parameter's levels explain (epsilon squared: main "
    "effect of an analysis of variance, chance taken off). The rest is interactions and seeds."
)


class Parameter(NamedTuple):
    """A key of the spec that differs between trials."""

    key: str
    values: list[Any]  # one a trial; ABSENT where its spec lacks the key

    @property
    def name(self) -> str:
        """Short: `rule`, or the last part of its key."""
        last = self.key.rpartition(".")[2].replace("_", " ")
        return "rule" if self.key == "balancer.kind" else last

    @property
    def is_number(self) -> bool:
        return all(_is_number(value) for value in self.values if value != ABSENT)

    @property
    def levels(self) -> list[Any]:
        """Distinct values, numbers ascending, ABSENT first; others in the order of the trials."""
        distinct = list(dict.fromkeys(self.values))
        if self.is_number:
            distinct.sort(key=lambda value: -math.inf if value == ABSENT else value)
        return distinct


def varying(trials: Sequence[TrialRecord]) -> list[Parameter]:
    """The parameters in which the trials that have them differ, in the order of the spec.

    What differs only by being there, a default of one rule, goes with the rule and is left out.
    """
    flat = [dict(_leaves(trial.spec)) for trial in trials]
    keys = list(dict.fromkeys(key for leaves in flat for key in leaves))
    found = [Parameter(key, [leaves.get(key, ABSENT) for leaves in flat]) for key in keys]
    return [one for one in found if len(set(one.levels) - {ABSENT}) > 1]


def importance(
    trials: Sequence[TrialRecord], parameters: Sequence[Parameter], name: str
) -> dict[str, float]:
    """Name -> share of the variance of the figure, 0 to 1; NaN where nothing can be told.

    Trials without the figure, or without the parameter, are left out of its judgement. A parameter
    whose every level has one trial tells nothing: it cannot be told from chance.
    """
    value_T = np.array([figure(trial, name) for trial in trials])
    return {parameter.name: _judged(value_T, _groups(parameter)) for parameter in parameters}


def _judged(value_T: NDArray[np.float64], group_T: Sequence[Any]) -> float:
    known_T = np.isfinite(value_T) & np.array([group != ABSENT for group in group_T])
    groups = [group for group, is_known in zip(group_T, known_T, strict=True) if is_known]
    return explained(value_T[known_T], groups)


def explained(value_T: NDArray[np.float64], group_T: Sequence[Any]) -> float:
    """Epsilon squared of the groups, not below 0; NaN without two groups or a repetition."""
    names = sorted(set(map(str, group_T)))
    index_T = np.array([names.index(str(group)) for group in group_T], int)
    between, within = len(names) - 1, len(value_T) - len(names)
    total = float(((value_T - value_T.mean()) ** 2).sum()) if len(value_T) else 0.0
    if between < 1 or within < 1 or total == 0:
        return math.nan
    mean_G = np.bincount(index_T, value_T) / np.bincount(index_T)
    left = float(((value_T - mean_G[index_T]) ** 2).sum())
    return max(0.0, 1 - left / within * (between + within) / total)


def _groups(parameter: Parameter) -> list[Any]:
    """Levels; of a number with many, the quarter that it lies in."""
    if not parameter.is_number or len(parameter.levels) <= MAX_LEVELS:
        return parameter.values
    numbers = [float(value) for value in parameter.values if value != ABSENT]
    edges = np.quantile(numbers, [0.25, 0.5, 0.75])
    return [
        ABSENT if value == ABSENT else int(np.searchsorted(edges, float(value)))
        for value in parameter.values
    ]


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", tuple(value) if isinstance(value, list) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
