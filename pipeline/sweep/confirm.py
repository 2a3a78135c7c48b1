"""The confirm stage trains the best settings of the tune stage again with fresh seeds.

A setting wins a search partly by luck, so its figures from the search are biased. Figures from
fresh seeds are not.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence

from evenload.pipeline.spec.sweep import (
    ConfirmSpec,
    Objective,
    SweepSpec,
    unique,
    with_data,
    with_seed,
)
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Stage, TrialRecord
from evenload.pipeline.sweep.axes import axes_of
from evenload.pipeline.sweep.racing import remaining_rows
from evenload.pipeline.sweep.setting import Setting, grouped, is_comparable, setting_of


def confirm_trials(
    spec: SweepSpec, rows: Sequence[TrialRecord], confirm: ConfirmSpec
) -> list[TrialSpec]:
    """The trials of the confirm stage, seed by seed; none if no setting is complete.

    Each place of an answer has its own best settings, and its control.

    Args:     rows: the sweep's trials; those of the tune stage must be final
    """
    axes = axes_of(rows, spec)
    found: list[TrialSpec] = []
    for place, groups in grouped(remaining_rows(spec, rows), Stage.TUNE, axes).items():
        settings = [
            setting_of(label, place, group, spec.objective.constraints)
            for label, group in groups.items()
            if all(map(is_comparable, group))
        ]
        chosen = _best(ranking(settings, spec.objective), confirm)
        plain = [setting for setting in settings if setting.kind == "none"]
        if chosen and plain:
            chosen.append(min(plain, key=lambda setting: setting.mean_loss))
        found += [
            TrialSpec.model_validate(row.spec)
            for setting in chosen
            for row in groups[setting.label]
        ]
    return unique(
        _again(trial, seed, confirm) for seed, trial in itertools.product(confirm.seeds, found)
    )


def ranking(settings: Sequence[Setting], objective: Objective) -> list[Setting]:
    """The settings of one place that may be named, in the order in which they deserve more seeds.

    Settings within the margin of the least loss come first, by imbalance, and then the others, by
    loss. Settings that break a constraint come last and do not count for the least loss.
    """
    rivals = [setting for setting in settings if not setting.is_yardstick]
    legal = [setting for setting in rivals if not setting.violates]
    least = min((setting.mean_loss for setting in legal), default=0.0)
    limit = least * (1 + objective.loss_tolerance)
    near = [setting for setting in legal if setting.mean_loss <= limit]
    far = [setting for setting in legal if setting.mean_loss > limit]
    return [
        *sorted(near, key=lambda setting: setting.max_vio),
        *sorted(far, key=lambda setting: setting.mean_loss),
        *sorted((s for s in rivals if s.violates), key=lambda setting: setting.max_vio),
    ]


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
    fresh = with_seed(trial, seed)
    return fresh if confirm.data is None else with_data(fresh, confirm.data)
