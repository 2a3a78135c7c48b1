"""The answer of a sweep: which settings can be named, per place, and how far to trust it.

A setting is named if its loss is shown to be within the margin of the least one and, of those, it
is the most even. Otherwise there is no claim. `selection` has the method and its source. If a sweep
has a confirm stage, only fresh seeds count, and the claim is among the confirmed settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import ValidationError

from evenload.pipeline.figures.loss_unit import BITS_PER_BYTE, LossUnit
from evenload.pipeline.spec.sweep import Objective, SweepSpec
from evenload.pipeline.states import CurvePoint, Stage, TrialRecord, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.axes import DEFAULTS, Axes, axes_of, seed_of, stage_of
from evenload.pipeline.sweep.extension import extensions
from evenload.pipeline.sweep.places import Groups, PlaceAnswer, Terms, place_answer, with_front
from evenload.pipeline.sweep.racing import races, rounds_of
from evenload.pipeline.sweep.selection import alpha_of_look
from evenload.pipeline.sweep.setting import Setting, Verdict, grouped, settings_at, why_left_out
from evenload.pipeline.sweep.targets import TargetRow, target_rows

Curves = Mapping[str, Sequence[CurvePoint]]


class Stopped(NamedTuple):
    """A trial that did not train to its end, and why."""

    digest: str
    name: str
    step: int  # the last trained step
    steps: int
    reason: str


class Answer(NamedTuple):
    """The answer with its evidence. `places` belong to `stage`."""

    sweep_id: str
    axes: Axes
    places: tuple[PlaceAnswer, ...]
    for_all: str | None  # the setting that is good at every place; None if none is, or not asked
    asks_for_all: bool
    stage: Stage  # the stage whose figures count
    awaits_confirm: bool
    is_race_on: bool  # whether settings still race for more seeds
    completed: int  # trials of the stage
    trials: int
    terms: Terms
    tuned: tuple[Setting, ...]  # settings of the search, if the confirm stage counts
    targets: tuple[TargetRow, ...]  # time to a target loss, and loss at the end of the budget
    stopped: tuple[Stopped, ...]

    @property
    def unit(self) -> LossUnit:
        """The unit of all losses."""
        return next((place.unit for place in self.places), BITS_PER_BYTE)

    def in_unit(self, unit: LossUnit) -> Answer:
        """The same with losses in another unit, whose factor is that of bits per byte."""
        tuned = tuple(setting.in_unit(unit.factor) for setting in self.tuned)
        return self._replace(places=tuple(p.in_unit(unit) for p in self.places), tuned=tuned)

    @property
    def is_confirmed(self) -> bool:
        """Whether the figures have fresh seeds."""
        return self.stage is Stage.CONFIRM

    @property
    def is_provisional(self) -> bool:
        return self.terms.is_provisional

    @property
    def settings(self) -> list[Setting]:
        return [setting for place in self.places for setting in place.settings]

    @property
    def named(self) -> list[Setting]:
        return [place.named for place in self.places if place.named is not None]


def answer(store: SweepStore, sweep_id: str) -> Answer:
    """Reads a sweep from the store and answers it.

    If a former version stored the sweep and this one cannot read its spec, the defaults are used.
    """
    return answer_of(
        store.trials(sweep_id), readable_spec(store, sweep_id), store.curves(sweep_id), sweep_id
    )


def readable_spec(store: SweepStore, sweep_id: str) -> SweepSpec | None:
    try:
        return SweepSpec.trusted(store.sweep(sweep_id).spec)
    except ValidationError:
        return None


def answer_of(
    trials: Sequence[TrialRecord],
    spec: SweepSpec | None = None,
    curves: Curves | None = None,
    sweep_id: str = "ID",
) -> Answer:
    """The answer of these trials. A pure function.

    Args:     spec: of the sweep; None: the defaults, without constraints and confirm stage
              curves: digest -> learning curve, for the time to the target loss
    """
    spec = spec or DEFAULTS
    axes = axes_of(trials, spec)
    tuned = grouped(trials, Stage.TUNE, axes)
    confirmed = grouped(trials, Stage.CONFIRM, axes)
    is_confirm = any(sum(not why_left_out(g) for g in p.values()) > 1 for p in confirmed.values())
    stage = Stage.CONFIRM if is_confirm else Stage.TUNE
    rows = [trial for trial in trials if stage_of(trial) is stage]
    completed = sum(trial.state.is_final for trial in rows)
    count = len(rows) + _still_unlisted(spec, rows)
    has_confirm = spec.confirm is not None or any(one.top is not None for one in spec.extended)
    awaits_confirm = has_confirm and not is_confirm
    objective, look = spec.objective, 1 + len(spec.extended)
    race = races(spec, trials, axes) if not is_confirm else {}
    is_race_on = any(not one.is_over for one in race.values())
    rounds = rounds_of(spec) if look == 1 and not is_confirm else 1
    terms = Terms(
        objective=objective,
        look=look,
        alpha=alpha_of_look(look) / rounds,
        is_provisional=completed < count or awaits_confirm or is_race_on,
        rounds=rounds,
    )
    is_same_text = spec.confirm is None or spec.confirm.data is None
    searched = tuned if is_confirm and is_same_text else {}
    places = tuple(
        place_answer(
            terms,
            place,
            groups,
            searched.get(place, {}),
            race[place].dropped if place in race else None,
        )
        for place, groups in (confirmed if is_confirm else tuned).items()
    )
    return Answer(
        sweep_id=sweep_id,
        axes=axes,
        places=places,
        for_all=_for_all(places) if spec.answer.one_for_all else None,
        asks_for_all=spec.answer.one_for_all,
        stage=stage,
        awaits_confirm=awaits_confirm,
        is_race_on=is_race_on,
        completed=completed,
        trials=count,
        terms=terms,
        tuned=tuple(_all_settings(tuned, objective)) if is_confirm else (),
        targets=target_rows(rows, curves or {}, objective.target_loss, axes),
        stopped=tuple(_stopped(t, axes) for t in trials if t.state is TrialState.STOPPED),
    )


def _for_all(places: Sequence[PlaceAnswer]) -> str | None:
    """Of the settings that pass at every place, the one with the least MaxVio over its floor."""
    passing = [
        {s.label: s for s in place.having(Verdict.NAMED, Verdict.TIED, Verdict.PASSES)}
        for place in places
    ]
    common = set.intersection(*map(set, passing)) if passing else set()
    return min(
        sorted(common),
        key=lambda label: math.prod(found[label].over_floor for found in passing),
        default=None,
    )


def _all_settings(by_place: Mapping[str, Groups], objective: Objective) -> list[Setting]:
    """The settings of a stage that can be compared, place by place, by imbalance."""
    found = []
    for place, groups in by_place.items():
        settings = with_front(settings_at(place, groups, objective.constraints))
        found += sorted(settings.values(), key=lambda setting: setting.max_vio)
    return found


def _still_unlisted(spec: SweepSpec, rows: Sequence[TrialRecord]) -> int:
    """Trials of extensions that are not listed yet, at least one per missing seed."""
    fresh = {seed for _, seeds in extensions(spec) for seed in seeds}
    return len(fresh - {seed_of(row) for row in rows})


def _stopped(trial: TrialRecord, axes: Axes) -> Stopped:
    return Stopped(
        digest=trial.digest,
        name=axes.name(trial),
        step=trial.progress.step if trial.progress is not None else 0,
        steps=int(trial.spec["train"]["steps"]),
        reason=trial.stop_reason or "no reason given",
    )
