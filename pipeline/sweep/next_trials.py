"""Decides which trials to add to a sweep: its search, its confirm stage, then its extensions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from evenload.pipeline.spec.sweep import NoStopping, RacingSearch, SweepSpec, TpeSearch
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Stage, TrialRecord
from evenload.pipeline.sweep.axes import seed_of, stage_of
from evenload.pipeline.sweep.confirm import confirm_trials, most_confirm_trials
from evenload.pipeline.sweep.extension import extensions, seed_trials
from evenload.pipeline.sweep.racing import unlisted
from evenload.pipeline.sweep.search import propose, propose_further


class Growth(NamedTuple):
    stage: Stage
    trials: list[TrialSpec]


NOTHING = Growth(Stage.TUNE, [])


def next_trials(spec: SweepSpec, rows: Sequence[TrialRecord], room: int) -> Growth:
    """The trials to add now. There are none if the sweep has all or must first finish others.

    Args:     rows: all trials of the sweep, in its order
              room: how many more trials could start now
    """
    tune = [row for row in rows if stage_of(row) is Stage.TUNE]
    further = propose_further(spec, rows, room) if room > 0 else []
    if further:
        return Growth(Stage.TUNE, further)
    if not tune or not all(row.state.is_final for row in tune):
        return NOTHING
    if propose_further(spec, rows, room=1):
        return NOTHING
    if spec.confirm is not None:
        confirming = _missing(confirm_trials(spec, tune, spec.confirm), rows, Stage.CONFIRM)
        if confirming:
            return Growth(Stage.CONFIRM, confirming)
    for extension, seeds in extensions(spec):
        earlier = [row for row in rows if seed_of(row) < seeds.start]
        if not all(row.state.is_final for row in earlier):
            return NOTHING
        stage, trials = seed_trials(spec, extension, seeds, earlier)
        if missing := _missing(trials, rows, stage):
            return Growth(stage, missing)
    return NOTHING


def _missing(
    trials: Sequence[TrialSpec], rows: Sequence[TrialRecord], stage: Stage
) -> list[TrialSpec]:
    """The trials that the stage does not list yet."""
    return unlisted(trials, [row for row in rows if stage_of(row) is stage])


def most_to_come(spec: SweepSpec) -> dict[Stage, int]:
    """The largest number of trials that each stage can add to the first ones."""
    begun = propose(spec)
    found = {Stage.TUNE: 0, Stage.CONFIRM: 0}
    if isinstance(spec.search, TpeSearch):
        places = math.prod(len(axis) for axis in spec.crossed_axes().values())
        found[Stage.TUNE] = max(0, spec.search.settings * places - len(begun))
    if isinstance(spec.search, RacingSearch):
        found[Stage.TUNE] = (spec.search.rounds - 1) * len(begun)
    if spec.confirm is not None:
        found[Stage.CONFIRM] = most_confirm_trials(spec.confirm, begun)
    return found


def grows(spec: SweepSpec) -> bool:
    """Whether trials may be added to the sweep."""
    is_open = isinstance(spec.search, TpeSearch | RacingSearch)
    return is_open or spec.confirm is not None or bool(spec.extended)


def stops_trials(spec: SweepSpec) -> bool:
    return not isinstance(spec.stopping, NoStopping)
