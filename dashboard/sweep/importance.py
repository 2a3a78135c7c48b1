"""How much each parameter of a sweep influences a figure.

The importance is the share of the figure's variance over trials that the parameter's levels
explain: epsilon squared of a one-way analysis of variance, which is the main effect of a functional
ANOVA without the part of chance. The rest is due to interactions and seeds.

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

ABSENT = "–"  # the value of a parameter that a trial's rule does not have
MAX_LEVELS = 8  # numbers with more levels are grouped into quarters
METHOD = (
    "Share of the variance over trials that the levels of a parameter explain (epsilon squared, "
    "the main effect of an analysis of variance without chance). The rest is due to interactions "
    "and seeds."
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
    flat = [dict(_leaves(trial.spec)) for trial in trials]
    keys = list(dict.fromkeys(key for leaves in flat for key in leaves))
    found = [Parameter(key, [leaves.get(key, ABSENT) for leaves in flat]) for key in keys]
    return [one for one in found if len(set(one.levels) - {ABSENT}) > 1]


def importance(
    trials: Sequence[TrialRecord], parameters: Sequence[Parameter], name: str
) -> dict[str, float]:
    """Name -> share of the variance of the figure, from 0 to 1; NaN if it cannot be determined.

    Trials without the figure or the parameter are left out. A parameter with only one trial per
    level gives NaN, because its influence cannot be told from chance.
    """
    value_T = np.array([figure(trial, name) for trial in trials])
    return {parameter.name: _share(value_T, _groups(parameter)) for parameter in parameters}


def _share(value_T: NDArray[np.float64], group_T: Sequence[Any]) -> float:
    known_T = np.isfinite(value_T) & np.array([group != ABSENT for group in group_T])
    groups = [group for group, is_known in zip(group_T, known_T, strict=True) if is_known]
    return explained(value_T[known_T], groups)


def explained(value_T: NDArray[np.float64], group_T: Sequence[Any]) -> float:
    """Epsilon squared of the groups, at least 0; NaN with one group or without repetitions."""
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
    """The level of every trial; for numbers with many levels their quarter."""
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
