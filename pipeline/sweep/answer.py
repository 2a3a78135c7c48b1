"""The answer of a sweep: which settings can be named, per place, and how far to trust it.

A setting is named if its loss is shown to be within the margin of the least one and, of those, it
is the most even. Otherwise there is no claim. `selection` has the method and its source. If a sweep
has a confirm stage, only fresh seeds count, and the claim is among the confirmed settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from evenload.pipeline.spec.sweep import Objective, SweepSpec
from evenload.pipeline.states import CurvePoint, Stage, TrialRecord, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.axes import Axes, axes_of, seed_of, stage_of
from evenload.pipeline.sweep.extension import fresh_seeds
from evenload.pipeline.sweep.pareto import on_front
from evenload.pipeline.sweep.seed_fit import Values
from evenload.pipeline.sweep.selection import (
    LossSelection,
    alpha_of_look,
    compare_evenness,
    differences,
    seeds_to_settle,
    select_by_loss,
)
from evenload.pipeline.sweep.setting import (
    LOSS,
    Group,
    Setting,
    Verdict,
    by_seed,
    grouped,
    log_over_floor,
    setting_of,
    why_left_out,
)
from evenload.pipeline.sweep.statistics import Interval
from evenload.pipeline.sweep.targets import TargetRow, target_rows
from evenload.pipeline.sweep.transfer import Transfer, transfers

Curves = Mapping[str, Sequence[CurvePoint]]
Groups = Mapping[str, Group]  # setting -> its trials at one place
FIRST_EXTENSION = 4  # seeds that are proposed where the noise is unknown


class Stopped(NamedTuple):
    """A trial that did not train to its end, and why."""

    digest: str
    name: str
    step: int  # the last trained step
    steps: int
    reason: str


class PlaceAnswer(NamedTuple):
    """The answer for one place, for example one expert count."""

    place: str
    settings: tuple[Setting, ...]  # all that can be compared, by imbalance
    left_out: Mapping[str, str]  # setting -> why it cannot be compared
    seeds: int  # the least number of seeds of a compared setting
    compared: int  # number of settings whose losses are compared
    margin: float  # in bits per byte
    noise: float  # bits per byte; standard deviation of a run within its seed; NaN with one seed
    is_pooled: bool  # whether all settings have one variance of loss
    even_ties: tuple[str, ...]  # not told apart in evenness from the named or else the most even
    is_noise_assumed: bool  # whether the noise of MaxVio is not measured, for lack of seeds
    more_seeds: int | None  # that would allow a claim if all were equal; None: over 200, or claimed
    better_set_aside: int | None  # settings that were not confirmed and may be better by the margin

    def having(self, *verdicts: Verdict) -> list[Setting]:
        return [setting for setting in self.settings if setting.verdict in verdicts]

    @property
    def named(self) -> Setting | None:
        return next(iter(self.having(Verdict.NAMED)), None)

    @property
    def least(self) -> Setting | None:
        """The setting of the least loss among those that may be named."""
        rivals = self.having(*MAY_BE_NAMED)
        return min(rivals, key=lambda setting: setting.bits_per_byte, default=None)

    @property
    def control(self) -> Setting | None:
        """Training without balancing; of several, the one of the least loss."""
        plain = [setting for setting in self.settings if setting.kind == "none"]
        return min(plain, key=lambda setting: setting.bits_per_byte, default=None)


MAY_BE_NAMED = (Verdict.NAMED, Verdict.TIED, Verdict.PASSES, Verdict.POSSIBLE, Verdict.OUT)


class Answer(NamedTuple):
    """The answer with its evidence. `places` belong to `stage`."""

    sweep_id: str
    axes: Axes
    places: tuple[PlaceAnswer, ...]
    for_all: str | None  # the setting that is good at every place; None if none is, or not asked
    asks_for_all: bool
    stage: Stage  # the stage whose figures count
    is_confirmed: bool  # whether the figures have fresh seeds
    awaits_confirm: bool
    completed: int  # trials of the stage
    trials: int
    look: int  # 1 at the planned seeds, one more for every extension
    alpha: float  # probability of any wrong claim at a place at this look
    objective: Objective
    tuned: tuple[Setting, ...]  # settings of the search, if the confirm stage counts
    targets: tuple[TargetRow, ...]  # time to a target loss, and loss at the end of the budget
    transfers: tuple[Transfer, ...]  # whether the best step size is the same with more experts
    stopped: tuple[Stopped, ...]

    @property
    def is_provisional(self) -> bool:
        """Whether trials are still to come, so that nothing is claimed yet."""
        return self.completed < self.trials or self.awaits_confirm

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
    objective = spec.objective if spec is not None else Objective()
    axes = axes_of(trials, spec)
    tuned = grouped(trials, Stage.TUNE, axes)
    confirmed = grouped(trials, Stage.CONFIRM, axes)
    is_confirm = any(sum(not why_left_out(g) for g in p.values()) > 1 for p in confirmed.values())
    stage = Stage.CONFIRM if is_confirm else Stage.TUNE
    rows = [trial for trial in trials if stage_of(trial) is stage]
    look = 1 + (len(spec.extended) if spec is not None else 0)
    known = Answer(
        sweep_id=sweep_id,
        axes=axes,
        places=(),
        for_all=None,
        asks_for_all=spec is not None and spec.answer.one_for_all,
        stage=stage,
        is_confirmed=is_confirm,
        awaits_confirm=spec is not None and spec.confirm is not None and not is_confirm,
        completed=sum(trial.state.is_final for trial in rows),
        trials=len(rows) + _still_unlisted(spec, rows),
        look=look,
        alpha=alpha_of_look(look),
        objective=objective,
        tuned=tuple(_all_settings(tuned, objective)) if is_confirm else (),
        targets=target_rows(rows, curves or {}, objective.target_loss, axes),
        transfers=transfers([t for t in trials if stage_of(t) is Stage.TUNE], axes),
        stopped=tuple(_stopped(t, axes) for t in trials if t.state is TrialState.STOPPED),
    )
    by_place = confirmed if is_confirm else tuned
    is_same_text = spec is None or spec.confirm is None or spec.confirm.data is None
    places = tuple(
        place_answer(
            known, place, groups, tuned.get(place, {}) if is_confirm and is_same_text else {}
        )
        for place, groups in by_place.items()
    )
    return known._replace(places=places, for_all=_for_all(places) if known.asks_for_all else None)


def place_answer(known: Answer, place: str, groups: Groups, tuned: Groups) -> PlaceAnswer:
    """Compares the settings of one place.

    Args:     tuned: the settings of the search there, if they can be compared with confirmed ones
    """
    left_out = {label: why for label, group in groups.items() if (why := why_left_out(group))}
    constraints = _bounds(known.objective)
    found = {
        label: setting_of(label, place, group, constraints)
        for label, group in groups.items()
        if label not in left_out
    }
    found = {label: one._replace(verdict=_first_verdict(one)) for label, one in found.items()}
    found = _with_front(found)
    # A rule that sees later tokens has a loss that no other can reach.
    family = [s for s in found.values() if s.verdict in (Verdict.UNKNOWN, Verdict.CONTROL)]
    margin = known.objective.loss_tolerance * min(
        (setting.bits_per_byte for setting in family), default=math.nan
    )
    seeds = min((setting.seeds for setting in family), default=0)
    result = PlaceAnswer(
        place, (), left_out, seeds, len(family), margin, math.nan, True, (), False, None, None
    )
    if len(family) > 1:
        labels = [setting.label for setting in family]
        losses = select_by_loss(table(groups, labels, _loss), margin, known.alpha)
        found |= _compared(found, labels, losses)
        result = result._replace(noise=losses.fit.deviation, is_pooled=losses.fit.is_pooled)
        found, ties, is_assumed = _evenness(found, groups, known)
        result = result._replace(even_ties=ties, is_noise_assumed=is_assumed)
    result = result._replace(settings=tuple(sorted(found.values(), key=lambda s: s.max_vio)))
    if result.named is not None:
        return result._replace(better_set_aside=_better_set_aside(known, result, groups, tuned))
    return result._replace(more_seeds=_more_seeds(result, known))


def table(groups: Groups, labels: Sequence[str], value: Callable[[TrialRecord], float]) -> Values:
    """The value of every setting (rows) at every seed (columns); NaN where there is none."""
    trials = [by_seed(groups[label]) for label in labels]
    seeds = sorted({seed for found in trials for seed in found})
    return np.array(
        [[value(found[seed]) if seed in found else math.nan for seed in seeds] for found in trials]
    )


def _loss(trial: TrialRecord) -> float:
    return trial.figure(LOSS)


def _bounds(objective: Objective) -> dict[str, float]:
    return {str(name): bound for name, bound in objective.constraints.items()}


def _first_verdict(setting: Setting) -> Verdict:
    if setting.kind == "none":
        return Verdict.CONTROL
    if setting.is_yardstick:
        return Verdict.LEAKS
    return Verdict.VIOLATES if setting.violates else Verdict.UNKNOWN


def _with_front(found: Mapping[str, Setting]) -> dict[str, Setting]:
    flags = on_front([(setting.bits_per_byte, setting.max_vio) for setting in found.values()])
    return {
        label: setting._replace(on_front=flag)
        for (label, setting), flag in zip(found.items(), flags, strict=True)
    }


def _compared(
    found: Mapping[str, Setting], labels: Sequence[str], losses: LossSelection
) -> dict[str, Setting]:
    """The settings with their losses compared."""
    control = min(
        (row for row, label in enumerate(labels) if found[label].kind == "none"),
        key=lambda row: losses.fit.mean_S[row],
        default=None,
    )
    above_S, half_S = differences(losses.fit, control or 0)
    changed = {}
    for row, label in enumerate(labels):
        setting = found[label]
        half = None if math.isnan(half_S[row]) else float(half_S[row])
        against = Interval(float(above_S[row]), half, setting.seeds)
        verdict = Verdict.OUT if losses.is_out_S[row] else Verdict.POSSIBLE
        if losses.passes_S[row]:
            verdict = Verdict.PASSES
        changed[label] = setting._replace(
            above_best=float(losses.high_S[row]),
            above_best_low=float(losses.low_S[row]),
            against_none=None if control in (None, row) else against,
            verdict=verdict if setting.verdict is Verdict.UNKNOWN else setting.verdict,
        )
    return changed


def _evenness(
    found: dict[str, Setting], groups: Groups, known: Answer
) -> tuple[dict[str, Setting], tuple[str, ...], bool]:
    """Names the most even of the settings that pass, unless trials are still to come.

    Returns:  the settings, the ties in evenness, and whether the noise of MaxVio is assumed
    """
    rivals = [label for label, setting in found.items() if setting.verdict in MAY_BE_NAMED]
    passing = [label for label in rivals if found[label].verdict is Verdict.PASSES]
    is_claim = bool(passing) and not known.is_provisional
    candidates = passing if is_claim else rivals
    if not candidates:
        return found, (), False
    best = min(candidates, key=lambda label: found[label].over_floor)
    ties: tuple[str, ...] = ()
    is_assumed = False
    if len(rivals) > 1:
        even = compare_evenness(table(groups, rivals, log_over_floor), known.alpha)
        row, is_assumed = rivals.index(best), even.is_assumed
        tied = [label for at, label in enumerate(rivals) if at != row and even.is_tied(row, at)]
        ties = tuple(label for label in tied if label in candidates)
    if is_claim:
        verdicts = dict.fromkeys(ties, Verdict.TIED) | {best: Verdict.NAMED}
        changed = {label: found[label]._replace(verdict=v) for label, v in verdicts.items()}
        found = found | changed
    return found, ties, is_assumed


def _more_seeds(found: PlaceAnswer, known: Answer) -> int | None:
    if found.compared < 2:
        return None
    if math.isnan(found.noise):
        return FIRST_EXTENSION
    alpha = alpha_of_look(known.look if known.is_provisional else known.look + 1)
    needed = seeds_to_settle(found.compared, found.noise, found.margin, alpha)
    return None if needed is None else max(1, needed - found.seeds)


def _better_set_aside(
    known: Answer, place: PlaceAnswer, groups: Groups, tuned: Groups
) -> int | None:
    """How many unconfirmed settings may have a loss below the named one's by more than the margin.

    All trials of both stages are compared at once; None if there is nothing to compare.
    """
    bounds = _bounds(known.objective)
    verdicts = {
        label: _first_verdict(setting_of(label, "", group, bounds))
        for label, group in tuned.items()
        if not why_left_out(group)
    }
    usable = [label for label, verdict in verdicts.items() if verdict is not Verdict.LEAKS]
    aside = [
        label for label in usable if label not in groups and verdicts[label] is Verdict.UNKNOWN
    ]
    if place.named is None or not aside or place.named.label not in usable:
        return None
    both = {label: [*tuned[label], *groups.get(label, ())] for label in usable}
    losses = select_by_loss(table(both, usable, _loss), place.margin, known.alpha)
    if not losses.fit.freedom:
        return len(aside)
    named = usable.index(place.named.label)
    error_S = losses.critical * losses.fit.error_SS[named]
    low_S = losses.fit.mean_S - losses.fit.mean_S[named] - error_S
    return sum(bool(low_S[usable.index(label)] < -place.margin) for label in aside)


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
        settings = {
            label: setting_of(label, place, group, _bounds(objective))
            for label, group in groups.items()
            if not why_left_out(group)
        }
        found += sorted(_with_front(settings).values(), key=lambda setting: setting.max_vio)
    return found


def _still_unlisted(spec: SweepSpec | None, rows: Sequence[TrialRecord]) -> int:
    """Trials of extensions that are not listed yet, at least one per missing seed."""
    if spec is None or not spec.extended:
        return 0
    return len(set(fresh_seeds(spec)) - {seed_of(row) for row in rows})


def _stopped(trial: TrialRecord, axes: Axes) -> Stopped:
    return Stopped(
        digest=trial.digest,
        name=axes.name(trial),
        step=trial.progress.step if trial.progress is not None else 0,
        steps=int(trial.spec["train"]["steps"]),
        reason=trial.stop_reason or "no reason given",
    )
