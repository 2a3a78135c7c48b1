"""The confirm stage trains the best settings of the tune stage again with fresh seeds.

A setting wins a search partly by luck, so its figures from the search are biased. Figures from
fresh seeds are not.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence

from evenload.pipeline.spec.sweep import ConfirmSpec, SweepSpec, unique, with_data
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Stage, TrialRecord
from evenload.pipeline.sweep.recommend import control_of, ranking
from evenload.pipeline.sweep.setting import Setting, by_setting, settings_of


def confirm_trials(spec: SweepSpec, rows: Sequence[TrialRecord]) -> list[TrialSpec]:
    """The trials of the confirm stage, seed by seed; none if no setting is complete.

    Args:     rows: the sweep's trials; those of the tune stage must be final
    """
    confirm = spec.confirm
    if confirm is None:
        return []
    settings = settings_of(rows, Stage.TUNE, spec)
    chosen = [setting.label for setting in _best(ranking(settings, spec.objective), confirm)]
    control = control_of(settings)
    if chosen and control is not None:
        chosen.append(control.label)
    groups = by_setting(rows, Stage.TUNE, spec)
    found = [TrialSpec.model_validate(row.spec) for label in chosen for row in groups[label]]
    return unique(
        _again(trial, seed, confirm) for seed, trial in itertools.product(confirm.seeds, found)
    )


def most_confirm_trials(confirm: ConfirmSpec, begun: Sequence[TrialSpec]) -> int:
    """The largest number of trials that the stage can have, given the first trials of the sweep."""
    places: dict[str, set[str]] = defaultdict(set)
    for trial in begun:
        unseeded = _again(trial, confirm.seeds[0], confirm)
        places[trial.balancer.label].add(unseeded.model_dump_json())
    settings = confirm.top + ("none" in places)
    return settings * max(len(found) for found in places.values()) * len(confirm.seeds)


def _best(ranked: Sequence[Setting], confirm: ConfirmSpec) -> list[Setting]:
    """The best `top` settings, at most `per_rule` per rule: a search may draw nearly equal ones."""
    seen: Counter[str] = Counter()
    kept: list[Setting] = []
    for setting in ranked:
        seen[setting.kind] += 1
        if confirm.per_rule is None or seen[setting.kind] <= confirm.per_rule:
            kept.append(setting)
    return kept[: confirm.top]


def _again(trial: TrialSpec, seed: int, confirm: ConfirmSpec) -> TrialSpec:
    fresh = trial.model_copy(update={"train": trial.train.model_copy(update={"seed": seed})})
    return fresh if confirm.data is None else with_data(fresh, confirm.data)
