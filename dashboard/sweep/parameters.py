"""The parameters of a sweep: what differs between the specs of its trials."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from evenload.dashboard.record_tables import leaves
from evenload.pipeline.states import TrialRecord

ABSENT = "–"  # the value of a parameter that a trial's rule does not have


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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
