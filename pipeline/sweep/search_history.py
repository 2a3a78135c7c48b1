"""The results of the settings that a search has proposed so far."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from evenload.pipeline.spec.search_space import Coordinates, locate
from evenload.pipeline.spec.sweep import SweepSpec, TpeSearch
from evenload.pipeline.states import Stage, TrialRecord
from evenload.pipeline.sweep.axes import stage_of
from evenload.pipeline.sweep.setting import IMBALANCE, LOSS, is_comparable

FIGURES = {"loss": LOSS, "imbalance": IMBALANCE}


class KnownSetting(NamedTuple):
    """The results of one setting."""

    coordinates: Coordinates
    objectives: tuple[float, ...] | None  # lower is better; None while it runs or if it failed
    violations: Mapping[str, float]  # by constraint; values above 0 break it
    is_running: bool


def search_history(spec: SweepSpec, rows: Sequence[TrialRecord]) -> list[KnownSetting]:
    """The settings of the tune stage, in the order in which they were proposed."""
    axes = spec.searched_axes()
    groups: dict[tuple[tuple[str, int | float], ...], list[TrialRecord]] = defaultdict(list)
    for row in rows:
        coordinates = locate(axes, row.spec) if stage_of(row) is Stage.TUNE else None
        if coordinates is not None:
            groups[tuple(coordinates.items())].append(row)
    return [_known_setting(spec, dict(place), group) for place, group in groups.items()]


def _known_setting(
    spec: SweepSpec, coordinates: Coordinates, group: Sequence[TrialRecord]
) -> KnownSetting:
    if not all(row.state.is_final for row in group):
        return KnownSetting(coordinates, None, {}, is_running=True)
    if not all(map(is_comparable, group)):
        # Failed, stopped or without figures: worse than all finished ones; the earlier, the worse.
        return KnownSetting(coordinates, None, {"unfinished": _left(group)}, is_running=False)
    objectives = spec.search.objectives if isinstance(spec.search, TpeSearch) else ("loss",)
    means = {
        name: fmean(row.figure(name) for row in group)
        for name in (LOSS, IMBALANCE, *spec.objective.constraints)
    }
    return KnownSetting(
        coordinates,
        objectives=tuple(means[FIGURES[name]] for name in objectives),
        violations={
            name: math.inf if math.isnan(means[name]) else means[name] - bound
            for name, bound in spec.objective.constraints.items()
        },
        is_running=False,
    )


def _left(group: Sequence[TrialRecord]) -> float:
    """The share of the training that was not done; above 0."""
    steps = sum(row.spec["train"]["steps"] for row in group)
    return 1 - sum(row.progress.step for row in group if row.progress) / (steps + 1)
