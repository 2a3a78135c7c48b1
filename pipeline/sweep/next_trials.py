"""Decides which trials to add to a sweep: first those of its search, then its confirm stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from evenload.pipeline.spec.sweep import NoStopping, SweepSpec, TpeSearch
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Stage, TrialRecord
from evenload.pipeline.sweep.confirm import confirm_trials, most_confirm_trials
from evenload.pipeline.sweep.search import propose, propose_further
from evenload.pipeline.sweep.setting import stage_of


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
    listed = [row.spec for row in rows if stage_of(row) is Stage.CONFIRM]
    missing = [
        trial for trial in confirm_trials(spec, rows) if trial.model_dump(mode="json") not in listed
    ]
    return Growth(Stage.CONFIRM, missing)


def most_to_come(spec: SweepSpec) -> dict[Stage, int]:
    """The largest number of trials that each stage can add to the first ones."""
    begun = propose(spec)
    found = {Stage.TUNE: 0, Stage.CONFIRM: 0}
    if isinstance(spec.search, TpeSearch):
        places = math.prod(len(axis) for axis in spec.crossed_axes().values())
        found[Stage.TUNE] = max(0, spec.search.settings * places - len(begun))
    if spec.confirm is not None:
        found[Stage.CONFIRM] = most_confirm_trials(spec.confirm, begun)
    return found


def grows(spec: SweepSpec) -> bool:
    """Whether trials may be added to the sweep."""
    return isinstance(spec.search, TpeSearch) or spec.confirm is not None


def stops_trials(spec: SweepSpec) -> bool:
    return not isinstance(spec.stopping, NoStopping)
