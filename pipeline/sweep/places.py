"""The answer for one place of a sweep, for example one expert count.

Losses are compared among all settings of the place that keep the constraints, with the control and
without rules that see later tokens. `selection` has the method and its source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evenload.pipeline.figures.loss_unit import BITS_PER_BYTE, LossUnit
from evenload.pipeline.spec.sweep import Objective
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.sweep import selection
from evenload.pipeline.sweep.seed_fit import Values
from evenload.pipeline.sweep.setting import (
    LOSS,
    Group,
    Setting,
    Verdict,
    by_seed,
    log_over_floor,
    settings_at,
    why_left_out,
)
from evenload.pipeline.sweep.statistics import Interval

Groups = Mapping[str, Group]  # setting -> its trials at one place
FIRST_EXTENSION = 4  # seeds that are proposed where the noise is unknown
SMALL = 0.01  # bits per byte; a difference in loss whose price in seeds is told
TOP = 3  # settings that are proposed to be confirmed


class Terms(NamedTuple):
    """The terms of a claim."""

    objective: Objective
    look: int  # 1 at the planned seeds, one more for every extension
    alpha: float  # the probability of any wrong claim at a place at this look
    is_provisional: bool  # whether trials are still to come, so that nothing is claimed yet
    rounds: int = 1  # of a race, which share the look's alpha


class PlaceAnswer(NamedTuple):
    """The answer for one place, for example one expert count."""

    place: str
    settings: tuple[Setting, ...]  # all that can be compared, by imbalance
    left_out: Mapping[str, str]  # setting -> why it cannot be compared
    seeds: int  # the least number of seeds of a compared setting
    compared: int  # number of settings whose losses are compared
    margin: float  # in bits per byte
    dropped: Mapping[str, str]  # setting -> round and reason for which it left the race
    noise: float = math.nan  # of a run within its seed, bits per byte; NaN with one seed
    is_pooled: bool = True  # whether all settings have one variance of loss
    even_ties: tuple[str, ...] = ()  # as even as the named or else the most even, as far as shown
    is_noise_assumed: bool = False  # whether the noise of MaxVio is not measured, for lack of seeds
    # None in the following: over 200 seeds, or the question does not arise.
    more_seeds: int | None = None  # that would allow a claim if all were equal
    seeds_for_top: int | None = None  # fresh ones that would, for the best TOP and the control
    detectable: float = math.inf  # difference in loss that 80 % of such sweeps would show
    seeds_for_small: int | None = None  # with which they would show SMALL
    better_set_aside: int | None = None  # unconfirmed settings that may be better by the margin
    unit: LossUnit = BITS_PER_BYTE  # of all losses

    def in_unit(self, unit: LossUnit) -> PlaceAnswer:
        """The same with losses in another unit, whose factor is that of bits per byte."""
        return self._replace(
            settings=tuple(setting.in_unit(unit.factor) for setting in self.settings),
            margin=unit.factor * self.margin,
            noise=unit.factor * self.noise,
            detectable=unit.factor * self.detectable,
            unit=unit,
        )

    def having(self, *verdicts: Verdict) -> list[Setting]:
        return [setting for setting in self.settings if setting.verdict in verdicts]

    @property
    def named(self) -> Setting | None:
        return next(iter(self.having(Verdict.NAMED)), None)

    @property
    def least(self) -> Setting | None:
        """The setting of the least loss among those that may be named."""
        rivals = self.having(*MAY_BE_NAMED)
        return min(rivals, key=lambda setting: setting.mean_loss, default=None)

    @property
    def evenest(self) -> Setting | None:
        """The named setting, or without a claim the most even one of those that may be named."""
        rivals = self.having(*MAY_BE_NAMED)
        return self.named or min(rivals, key=lambda setting: setting.over_floor, default=None)

    @property
    def control(self) -> Setting | None:
        """Training without balancing; of several, the one of the least loss."""
        plain = [setting for setting in self.settings if setting.kind == "none"]
        return min(plain, key=lambda setting: setting.mean_loss, default=None)


MAY_BE_NAMED = (Verdict.NAMED, Verdict.TIED, Verdict.PASSES, Verdict.POSSIBLE, Verdict.OUT)


def place_answer(
    terms: Terms,
    place: str,
    groups: Groups,
    tuned: Groups,
    dropped: Mapping[str, str] | None = None,
) -> PlaceAnswer:
    """Compares the settings of one place.

    Args:     tuned: the settings of the search there, if they can be compared with confirmed ones
              dropped: the settings that left the race, and why; they are shown, not compared
    """
    dropped = dropped or {}
    left_out = {label: why for label, group in groups.items() if (why := why_left_out(group))}
    found = settings_at(place, groups, terms.objective.constraints)
    gone = [
        found.pop(label)._replace(verdict=Verdict.DROPPED) for label in dropped if label in found
    ]
    found = {label: one._replace(verdict=_first_verdict(one)) for label, one in found.items()}
    found = with_front(found)
    # A rule that sees later tokens has a loss that no other can reach.
    family = [s for s in found.values() if s.verdict in (Verdict.UNKNOWN, Verdict.CONTROL)]
    margin = terms.objective.loss_tolerance * min(
        (setting.mean_loss for setting in family), default=math.nan
    )
    seeds = min((setting.seeds for setting in family), default=0)
    result = PlaceAnswer(place, (), left_out, seeds, len(family), margin, dropped)
    if len(family) > 1:
        labels = [setting.label for setting in family]
        losses = selection.select_by_loss(table(groups, labels, _loss), margin, terms.alpha)
        found |= _compared(found, labels, losses)
        result = result._replace(
            noise=losses.fit.deviation,
            is_pooled=losses.fit.is_pooled,
            detectable=selection.detectable(losses.fit, seeds),
            seeds_for_small=selection.seeds_to_detect(losses.fit, SMALL),
        )
        found, ties, is_assumed = _evenness(found, groups, terms)
        result = result._replace(even_ties=ties, is_noise_assumed=is_assumed)
    result = result._replace(
        settings=tuple(sorted([*found.values(), *gone], key=lambda s: s.max_vio))
    )
    if result.named is not None:
        return result._replace(better_set_aside=_better_set_aside(terms, result, groups, tuned))
    return _with_seeds_needed(result, terms)


def table(groups: Groups, labels: Sequence[str], value: Callable[[TrialRecord], float]) -> Values:
    """The value of every setting (rows) at every seed (columns); NaN where there is none."""
    trials = [by_seed(groups[label]) for label in labels]
    seeds = sorted({seed for found in trials for seed in found})
    return np.array(
        [[value(found[seed]) if seed in found else math.nan for seed in seeds] for found in trials]
    )


def _loss(trial: TrialRecord) -> float:
    return trial.figure(LOSS)


def _first_verdict(setting: Setting) -> Verdict:
    if setting.kind == "none":
        return Verdict.CONTROL
    if setting.is_yardstick:
        return Verdict.LEAKS
    return Verdict.VIOLATES if setting.violates else Verdict.UNKNOWN


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For every point, whether no other one is as low in both figures and lower in one."""
    one_N, two_N = np.array(points, float).reshape(-1, 2).T
    is_as_low_NN = (one_N <= one_N[:, None]) & (two_N <= two_N[:, None])
    is_lower_NN = (one_N < one_N[:, None]) | (two_N < two_N[:, None])
    return [not is_beaten_N.any() for is_beaten_N in is_as_low_NN & is_lower_NN]


def with_front(found: Mapping[str, Setting]) -> dict[str, Setting]:
    """The settings with those marked that no other one beats in loss or balance."""
    flags = on_front([(setting.mean_loss, setting.max_vio) for setting in found.values()])
    return {
        label: setting._replace(on_front=flag)
        for (label, setting), flag in zip(found.items(), flags, strict=True)
    }


def _compared(
    found: Mapping[str, Setting], labels: Sequence[str], losses: selection.LossSelection
) -> dict[str, Setting]:
    """The settings with their losses compared."""
    control = min(
        (row for row, label in enumerate(labels) if found[label].kind == "none"),
        key=lambda row: losses.fit.mean_S[row],
        default=None,
    )
    above_S, half_S = selection.differences(losses.fit, control or 0)
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
    found: dict[str, Setting], groups: Groups, terms: Terms
) -> tuple[dict[str, Setting], tuple[str, ...], bool]:
    """Names the most even of the settings that pass, unless trials are still to come.

    Returns:  the settings, the ties in evenness, and whether the noise of MaxVio is assumed
    """
    rivals = [label for label, setting in found.items() if setting.verdict in MAY_BE_NAMED]
    passing = [label for label in rivals if found[label].verdict is Verdict.PASSES]
    is_claim = bool(passing) and not terms.is_provisional
    candidates = passing if is_claim else rivals
    if not candidates:
        return found, (), False
    best = min(candidates, key=lambda label: found[label].over_floor)
    ties: tuple[str, ...] = ()
    is_assumed = False
    if len(rivals) > 1:
        even = selection.compare_evenness(table(groups, rivals, log_over_floor), terms.alpha)
        row, is_assumed = rivals.index(best), even.is_assumed
        tied = [label for at, label in enumerate(rivals) if at != row and even.is_tied(row, at)]
        ties = tuple(label for label in tied if label in candidates)
    if is_claim:
        verdicts = dict.fromkeys(ties, Verdict.TIED) | {best: Verdict.NAMED}
        changed = {label: found[label]._replace(verdict=v) for label, v in verdicts.items()}
        found = found | changed
    return found, ties, is_assumed


def _with_seeds_needed(found: PlaceAnswer, terms: Terms) -> PlaceAnswer:
    """The answer with the seeds that would settle it."""
    if found.compared < 2:
        return found
    if math.isnan(found.noise):
        return found._replace(more_seeds=FIRST_EXTENSION)
    alpha = selection.alpha_of_look(terms.look if terms.is_provisional else terms.look + 1)
    needed = selection.seeds_to_settle(found.compared, found.noise, found.margin, alpha)
    return found._replace(
        more_seeds=None if needed is None else max(1, needed - found.seeds),
        seeds_for_top=selection.seeds_to_settle(TOP + 1, found.noise, found.margin, alpha),
    )


def _better_set_aside(
    terms: Terms, place: PlaceAnswer, groups: Groups, tuned: Groups
) -> int | None:
    """How many unconfirmed settings may have a loss below the named one's by more than the margin.

    All trials of both stages are compared at once; None if there is nothing to compare.
    """
    settings = settings_at(place.place, tuned, terms.objective.constraints)
    verdicts = {label: _first_verdict(setting) for label, setting in settings.items()}
    usable = [label for label, verdict in verdicts.items() if verdict is not Verdict.LEAKS]
    aside = [
        label for label in usable if label not in groups and verdicts[label] is Verdict.UNKNOWN
    ]
    if place.named is None or not aside or place.named.label not in usable:
        return None
    both = {label: [*tuned[label], *groups.get(label, ())] for label in usable}
    losses = selection.select_by_loss(table(both, usable, _loss), place.margin, terms.alpha)
    if not losses.fit.freedom:
        return len(aside)
    named = usable.index(place.named.label)
    error_S = losses.critical * losses.fit.error_SS[named]
    low_S = losses.fit.mean_S - losses.fit.mean_S[named] - error_S
    return sum(bool(low_S[usable.index(label)] < -place.margin) for label in aside)
