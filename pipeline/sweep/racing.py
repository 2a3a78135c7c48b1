"""A race of settings: each round trains those that remain with a block of fresh seeds.

After a round a setting drops out if its loss is shown to be above the least one by more than the
margin. As the best setting is never dropped but by a wrong statement, a claim among those that
remain is one among all. The race at a place ends when no more seeds can change what is named, or
after the planned rounds. Every round has an equal share of the first look's alpha.

All is a pure function of the trials, so a race goes on after a crash as if there had been none.

Source:   Kim & Nelson 2001, A fully sequential procedure for indifference-zone selection; Birattari
          et al. 2002, A racing algorithm (F-race); Lopez-Ibanez et al. 2016, irace. Differs: all
          statements are those of `selection`, with Bonferroni's alpha over rounds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evenload.pipeline.spec.spec_file import sha256
from evenload.pipeline.spec.sweep import RacingSearch, SweepSpec, with_seed
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Stage, TrialRecord
from evenload.pipeline.sweep.axes import Axes, axes_of, seed_of
from evenload.pipeline.sweep.places import (
    MAY_BE_NAMED,
    Groups,
    PlaceAnswer,
    Terms,
    place_answer,
    table,
)
from evenload.pipeline.sweep.seed_fit import Values
from evenload.pipeline.sweep.selection import Flags, alpha_of_look, compare_evenness
from evenload.pipeline.sweep.setting import Group, Verdict, grouped, log_over_floor

KEPT = (*MAY_BE_NAMED, Verdict.CONTROL)  # the control stays, because all are compared with it


class PlaceRace(NamedTuple):
    """The race at one place."""

    remaining: Groups
    dropped: Mapping[str, str]  # setting -> round and reason
    round: int  # the one that is in progress, or the last one
    is_over: bool


def races(spec: SweepSpec, rows: Sequence[TrialRecord], axes: Axes) -> dict[str, PlaceRace]:
    """The race at every place; empty if the sweep is none.

    Args:     rows: all trials of the sweep
    """
    search = spec.search
    if not isinstance(search, RacingSearch):
        return {}
    blocks = [spec.racing_seeds(number, number) for number in range(1, search.rounds + 1)]
    terms = Terms(spec.objective, 1, alpha_of_look(1) / search.rounds, is_provisional=False)
    return {
        place: _race(place, groups, blocks, terms)
        for place, groups in grouped(rows, Stage.TUNE, axes).items()
    }


def rounds_of(spec: SweepSpec) -> int:
    """The rounds that share the alpha of the first look; 1 if the sweep is no race."""
    return spec.search.rounds if isinstance(spec.search, RacingSearch) else 1


def remaining_rows(spec: SweepSpec, rows: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials without those of settings that dropped out of a race."""
    axes = axes_of(rows, spec)
    found = races(spec, rows, axes)
    return [
        row
        for row in rows
        if (race := found.get(axes.place(row))) is None or axes.setting(row) not in race.dropped
    ]


def further_trials(spec: SweepSpec, rows: Sequence[TrialRecord]) -> list[TrialSpec]:
    """The trials of the rounds in progress that are not listed yet, seed by seed."""
    found = []
    for race in races(spec, rows, axes_of(rows, spec)).values():
        if race.is_over:
            continue
        firsts = [TrialSpec.model_validate(group[0].spec) for group in race.remaining.values()]
        for seed in spec.racing_seeds(1, race.round):
            found += [with_seed(first, seed) for first in firsts]
    return unlisted(found, rows)


def unlisted(trials: Iterable[TrialSpec], rows: Iterable[TrialRecord]) -> list[TrialSpec]:
    """The trials that these rows do not have yet."""
    listed = {sha256(row.spec) for row in rows}
    return [trial for trial in trials if sha256(trial.model_dump(mode="json")) not in listed]


def is_decided(passes_S: Flags, is_out_S: Flags, log_SN: Values, alpha: float) -> bool:
    """Whether more seeds cannot change what is named: the most even one that passes.

    They could if a setting that is still possible is more even than it, or not shown to be less so.

    Args:     log_SN: logarithm of MaxVio over its floor of the settings that may be named
    """
    if not passes_S.any():
        return False
    if len(passes_S) < 2:
        return True
    even = compare_evenness(log_SN, alpha)
    best = int(np.where(passes_S, even.fit.mean_S, np.inf).argmin())
    rivals = np.flatnonzero(~passes_S & ~is_out_S)
    return not any(
        even.is_tied(best, rival) or even.fit.mean_S[rival] < even.fit.mean_S[best]
        for rival in rivals
    )


def _race(place: str, groups: Groups, blocks: Sequence[range], terms: Terms) -> PlaceRace:
    """Repeats the rounds of one place, as far as their trials are over."""
    remaining, dropped = dict(groups), dict[str, str]()
    for number, block in enumerate(blocks, 1):
        so_far = range(blocks[0].start, block.stop)
        seen = {
            label: [trial for trial in group if seed_of(trial) in so_far]
            for label, group in remaining.items()
        }
        if not all(_is_full(group, block) for group in seen.values()):
            return PlaceRace(remaining, dropped, number, is_over=False)
        found = place_answer(terms, place, seen, {})
        if number == len(blocks) or found.compared < 2 or _is_decided(found, seen, terms):
            return PlaceRace(remaining, dropped, number, is_over=True)
        for label, why in _reasons(found).items():
            dropped[label] = f"dropped in round {number}: {why}"
            del remaining[label]
    raise AssertionError("a race has at least one round")


def _is_full(group: Group, block: range) -> bool:
    """Whether the setting has an ended trial at every seed of the block."""
    ended = {seed_of(trial) for trial in group if trial.state.is_final}
    return ended.issuperset(block) and all(trial.state.is_final for trial in group)


def _is_decided(found: PlaceAnswer, seen: Groups, terms: Terms) -> bool:
    rivals = found.having(*MAY_BE_NAMED)
    if not rivals:
        return True
    log_SN = table(seen, [setting.label for setting in rivals], log_over_floor)
    is_out_S = np.array([setting.verdict is Verdict.OUT for setting in rivals])
    is_open_S = np.array([setting.verdict is Verdict.POSSIBLE for setting in rivals])
    return is_decided(~is_out_S & ~is_open_S, is_out_S, log_SN, terms.alpha)


def _reasons(found: PlaceAnswer) -> dict[str, str]:
    """Why settings drop out after this round."""
    reasons = dict(found.left_out)
    for setting in found.settings:
        if setting.verdict is Verdict.OUT:
            reasons[setting.label] = (
                f"loss above the least one by at least {setting.above_best_low:.3f}"
            )
        elif setting.verdict not in KEPT:
            reasons[setting.label] = "; ".join(setting.violates) or setting.verdict.value
    return reasons
