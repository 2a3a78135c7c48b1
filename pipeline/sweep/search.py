"""Decides which trials of a sweep to run, and in which order. Pure functions.

A search proposes settings, and each is trained at every point of the crossed axes. To add a search,
add a spec to `evenload.pipeline.spec.sweep` and an entry to `SEARCHES`.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from evenload.pipeline.spec import search_space as space
from evenload.pipeline.spec.sweep import (
    MAX_TRIALS,
    RacingSearch,
    RandomSearch,
    SweepSpec,
    TpeSearch,
    num_settings,
    unique,
    with_seed,
)
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.sweep.racing import further_trials
from evenload.pipeline.sweep.search_history import KnownSetting, search_history

Point = dict[str, Any]  # axis -> value
MAX_REDRAWS = 64  # after so many draws without a new setting the space counts as exhausted


def propose(spec: SweepSpec) -> list[TrialSpec]:
    """The first trials of a sweep, in their order. The same spec always gives the same list."""
    trials = unique(_crossed(spec, SEARCHES[spec.search.kind](spec)))
    if not isinstance(spec.search, RacingSearch):
        return trials
    return [with_seed(trial, seed) for seed in spec.racing_seeds(1, 1) for trial in trials]


def shortfall(spec: SweepSpec, trials: Sequence[TrialSpec]) -> str | None:
    """Why a sweep lists fewer trials than its search asks for; None if it lists them all.

    Args:     trials: as from `propose`
    """
    asked = getattr(spec.search, "settings", None) or num_settings(spec)
    found = num_settings(spec)
    if not isinstance(spec.search, TpeSearch):  # which proposes most of its settings later
        found = len(trials) // space.num_corners(spec.crossed_axes())
    if found >= asked:
        return None
    return f"{asked} settings are asked for, but the axes have only {found} that differ"


def propose_further(spec: SweepSpec, rows: Sequence[TrialRecord], room: int) -> list[TrialSpec]:
    """Trials of further settings, at least `room` of them if the search has as many left.

    Args:     rows: all trials of the sweep, in its order
    """
    if isinstance(spec.search, RacingSearch):
        return further_trials(spec, rows)
    found: list[TrialSpec] = []
    for point in _tpe(spec, rows) if isinstance(spec.search, TpeSearch) else ():
        if len(found) >= room:
            break
        found += _crossed(spec, [point])
    return unique(found)


def _crossed(spec: SweepSpec, points: Iterable[Point]) -> Iterator[TrialSpec]:
    crossed = list(space.corners(spec.crossed_axes()))
    for point in points:
        for rest in crossed:
            yield spec.trial_at(point | rest)


def _grid(spec: SweepSpec) -> Iterable[Point]:
    return space.corners(spec.axes)


def _random(spec: SweepSpec) -> Iterable[Point]:
    search = spec.search
    assert isinstance(search, RandomSearch)
    axes, rng = spec.searched_axes(), random.Random(search.seed)
    if not any(map(space.has_ranges, axes.values())) and space.num_corners(axes) <= MAX_TRIALS:
        points = list(space.corners(axes))
        rng.shuffle(points)
        return points[: search.settings]
    drawn = itertools.islice(
        _distinct(lambda: space.choose(axes, _drawn(rng)), []), search.settings
    )
    return [point for _, point in drawn]


def _spread(spec: SweepSpec) -> list[Point]:
    """Evenly spread settings: every coordinate takes each part of its range once.

    Source:   McKay, Beckman, Conover 1979 (Latin hypercube)
    """
    search = spec.search
    assert isinstance(search, TpeSearch)
    count = min(search.startup, search.settings)
    axes = spec.searched_axes()
    strata = [_stratum(search.seed, number, count) for number in range(count)]
    return [space.choose(axes, stratum)[1] for stratum in strata]


def _tpe(spec: SweepSpec, rows: Sequence[TrialRecord]) -> Iterator[Point]:
    # Importing Optuna takes long, and few sweeps need it.
    from evenload.pipeline.sweep.tpe import propose as ask

    search, axes = spec.search, spec.searched_axes()
    assert isinstance(search, TpeSearch)
    history = search_history(spec, rows)
    known = [setting.coordinates for setting in history]
    drawn: list[KnownSetting] = []

    def draw() -> tuple[space.Coordinates, Point]:
        seed = random.Random(f"{search.seed}/{len(known)}/{len(drawn)}").getrandbits(32)
        coordinates, point = ask(axes, [*history, *drawn], len(search.objectives), seed)
        # Running settings count as bad ones, so this one is not proposed over and over again.
        drawn.append(KnownSetting(coordinates, None, {}, is_running=True))
        return coordinates, point

    for _, point in itertools.islice(
        _distinct(draw, known), max(0, search.settings - len(history))
    ):
        yield point


def _distinct(
    draw: Callable[[], tuple[space.Coordinates, Point]], known: list[space.Coordinates]
) -> Iterator[tuple[space.Coordinates, Point]]:
    """Draws settings that are not `known`, and adds them to it, until no new one is found."""
    while True:
        for _ in range(MAX_REDRAWS):
            coordinates, point = draw()
            if coordinates not in known:
                break
        else:
            return
        known.append(coordinates)
        yield coordinates, point


def _drawn(rng: random.Random) -> space.Chooser:
    """Chooses at random."""
    return lambda _, span: (
        span.at(rng.random()) if isinstance(span, space.Range) else rng.randrange(span)
    )


def _stratum(seed: int, number: int, count: int) -> space.Chooser:
    """Chooses setting `number` of a Latin hypercube with `count` settings."""

    def chosen(name: str, span: space.Range | int) -> float:
        share = _shares(f"{seed}/{name}", count)[number]
        return span.at(share) if isinstance(span, space.Range) else int(share * span)

    return chosen


@lru_cache(maxsize=64)
def _shares(seed: str, count: int) -> list[float]:
    """A random place in each of `count` equal parts of 0 to 1, in random order."""
    rng = random.Random(seed)
    order = rng.sample(range(count), count)
    return [(part + rng.random()) / count for part in order]


# The settings with which a search begins. A race and `tpe` propose more, given the trials.
SEARCHES: dict[str, Callable[[SweepSpec], Iterable[Point]]] = {
    "grid": _grid,
    "racing": _grid,
    "random": _random,
    "tpe": _spread,
}
