"""Compares two sweeps: the settings that both have, at the places that both have.

Letters: S settings, N seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from evenload.pipeline.errors import SpecError
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.answer import Answer, answer_of, readable_spec
from evenload.pipeline.sweep.axes import TOKENS, UNNAMED, Axes, is_below, leaves_of, stage_of
from evenload.pipeline.sweep.places import Groups
from evenload.pipeline.sweep.seed_fit import Values
from evenload.pipeline.sweep.selection import ALPHA
from evenload.pipeline.sweep.setting import (
    LOSS,
    Setting,
    by_seed,
    grouped,
    log_over_floor,
    setting_of,
    why_left_out,
)
from evenload.pipeline.sweep.statistics import Interval

REMEDIES = {  # part of a trial that must be equal -> what to do if it is not
    "data": "run one sweep on the corpus of the other",
    **dict.fromkeys(TOKENS, "give both sweeps the same tokens, or `evenload sweep extend --steps`"),
    "eval.tokens": "score both on the same held-out text",
}


class Difference(NamedTuple):
    """One setting in both sweeps: the second minus the first."""

    label: str
    place: str
    first: Setting
    second: Setting
    loss: Interval  # bits per byte
    log_over_floor: Interval  # logarithm of MaxVio over its floor
    is_paired: bool  # whether the intervals are over the seeds that both sweeps have


class Comparison(NamedTuple):
    """Two sweeps side by side. The intervals of a place and figure hold together, to 95 %."""

    first: Answer
    second: Answer
    common: tuple[Difference, ...]
    repeated: tuple[str, ...]  # settings whose trials are the same in both sweeps
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    left_out: Mapping[str, str]  # common setting -> why it cannot be compared
    differing: Mapping[str, tuple[str, str]]  # key of all trials -> its values in both sweeps


def compare(store: SweepStore, first: str, second: str) -> Comparison:
    """Compares two sweeps of the store.

    Raises:   SpecError: one is unknown, or they have no setting in common or are not comparable
    """
    answers, rows = [], []
    for sweep_id in (first, second):
        store.sweep(sweep_id)
        trials, spec = store.trials(sweep_id), readable_spec(store, sweep_id)
        answers.append(answer_of(trials, spec, store.curves(sweep_id), sweep_id))
        rows.append(trials)
    return comparison(answers[0], answers[1], rows[0], rows[1])


def comparison(
    first: Answer, second: Answer, trials: Sequence[TrialRecord], others: Sequence[TrialRecord]
) -> Comparison:
    """Compares the trials of the stages that count. A pure function.

    Args:     trials, others: those of the first and of the second sweep
    Raises:   SpecError: as `compare`
    """
    chosen = dict.fromkeys((*first.axes.chosen, *second.axes.chosen))
    per = dict.fromkeys((*first.axes.per, *second.axes.per))
    axes = Axes(tuple(key for key in chosen if key not in per), tuple(per))
    trials, others = _that_count(first, trials), _that_count(second, others)
    differing = _differing(axes, trials, others)
    _check(first.sweep_id, second.sweep_id, differing)
    left, right = grouped(trials, first.stage, axes), grouped(others, second.stage, axes)
    common: list[Difference] = []
    repeated: list[str] = []
    left_out = {
        f"{label}, {place.place} in {one.sweep_id}": why
        for one in (first, second)
        for place in one.places
        for label, why in place.dropped.items()
    }
    for place in [place for place in left if place in right]:
        shared = [label for label in left[place] if label in right[place]]
        for label in shared:
            groups = left[place][label], right[place][label]
            if {t.digest for t in groups[0]} == {t.digest for t in groups[1]}:
                repeated.append(f"{label}, {place}")
            elif why := why_left_out(groups[0]) or why_left_out(groups[1]):
                left_out[f"{label}, {place}"] = why
        out = {*repeated, *left_out}
        usable = [label for label in shared if f"{label}, {place}" not in out]
        common += _differences(place, usable, left[place], right[place])
    both = {(one.label, one.place) for one in common}
    if not both and not repeated:
        raise SpecError(
            f"{first.sweep_id} and {second.sweep_id} have no finished setting in common: "
            f"{_examples(left)}, but {_examples(right)}; compare sweeps that share a setting"
        )
    names = {f"{label}, {place}" for label, place in both} | {*repeated, *left_out}
    return Comparison(
        first,
        second,
        tuple(sorted(common, key=lambda one: (one.place, one.first.max_vio))),
        tuple(repeated),
        tuple(name for name in _names(left) if name not in names),
        tuple(name for name in _names(right) if name not in names),
        left_out,
        differing,
    )


def half_of_differences(*samples: Values) -> float | None:
    """Half of the simultaneous 95 % intervals of S differences of means; None with one seed.

    Settings at one seed may have errors in common. So the variance of a mean is pooled over the
    settings, and its degrees of freedom lie between those of one setting and of all.

    Args:     samples: (S, N) without holes: the pairs' differences, or two independent ones
    Source:   Satterthwaite 1946, An approximate distribution of estimates of variance components;
              Šidák 1967 for several at once
    """
    from scipy.special import stdtrit  # slow to import

    if min(value_SN.shape[1] for value_SN in samples) < 2:
        return None
    parts = [part for value_SN in samples for part in _parts_of_variance(value_SN)]
    total = sum(part for part, _ in parts)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(part**2 / freedom for part, freedom in parts)
    level = (1 - ALPHA) ** (1 / len(samples[0]))
    return float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(total)


def _parts_of_variance(value_SN: Values) -> list[tuple[float, int]]:
    """Parts of the variance of a setting's mean with their degrees of freedom.

    The first is from what the settings share at a seed, the second from the rest.
    """
    S, N = value_SN.shape
    centred_SN = value_SN - value_SN.mean(axis=1, keepdims=True)
    shared_N = centred_SN.mean(axis=0)
    rest_SN = centred_SN - shared_N
    shared = S * float((shared_N**2).sum()) / (N - 1)
    parts = [(shared / S / N, N - 1)]
    if S > 1:
        rest = float((rest_SN**2).sum()) / (S - 1) / (N - 1)
        parts.append(((S - 1) * rest / S / N, (S - 1) * (N - 1)))
    return parts


def _differences(
    place: str, labels: Sequence[str], left: Groups, right: Groups
) -> list[Difference]:
    """The common settings of one place, at the seeds that are complete for all of them.

    They are paired if the sweeps share two of these seeds. Without any there is no interval.
    """
    done = [[by_seed(side[label]) for label in labels] for side in (left, right)]
    seeds = [set.intersection(*map(set, groups)) if groups else set() for groups in done]
    is_paired = len(seeds[0] & seeds[1]) > 1
    if is_paired:
        seeds = [seeds[0] & seeds[1]] * 2
    is_full = bool(seeds[0] and seeds[1])
    settings = [
        [
            setting_of(label, place, [group[s] for s in sorted(chosen if is_full else group)])
            for label, group in zip(labels, groups, strict=True)
        ]
        for groups, chosen in zip(done, seeds, strict=True)
    ]

    def half(value: Callable[[TrialRecord], float]) -> float | None:
        if not is_full:
            return None
        first_SN, second_SM = (
            np.array([[value(group[seed]) for seed in sorted(chosen)] for group in groups])
            for groups, chosen in zip(done, seeds, strict=True)
        )
        if is_paired:
            return half_of_differences(second_SM - first_SN)
        return half_of_differences(first_SN, second_SM)

    halves = (half(lambda trial: trial.figure(LOSS)), half(log_over_floor)) if labels else ()
    found = []
    for label, one, other in zip(labels, *settings, strict=True):
        loss, uneven = (
            Interval(b.mean - a.mean, found_half, min(one.seeds, other.seeds))
            for a, b, found_half in zip(
                (one.loss, one.log_over_floor),
                (other.loss, other.log_over_floor),
                halves,
                strict=True,
            )
        )
        found.append(Difference(label, place, one, other, loss, uneven, is_paired))
    return found


def _that_count(answer: Answer, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials of the stage whose figures count, without settings that dropped out of a race."""
    dropped = {(place.place, label) for place in answer.places for label in place.dropped}
    return [
        trial
        for trial in trials
        if stage_of(trial) is answer.stage
        and (answer.axes.place(trial), answer.axes.setting(trial)) not in dropped
    ]


def _differing(
    axes: Axes, trials: Sequence[TrialRecord], others: Sequence[TrialRecord]
) -> dict[str, tuple[str, str]]:
    """The keys that vary in neither sweep but between them, with their values."""
    values = [dict(_values(rows)) for rows in (trials, others)]
    varying = (*axes.chosen, *axes.per, *UNNAMED, "balancer")
    return {
        key: (_shown(values[0].get(key)), _shown(values[1].get(key)))
        for key in dict.fromkeys((*values[0], *values[1]))
        if values[0].get(key) != values[1].get(key)
        and not any(is_below(key, part) for part in varying)
    }


def _values(rows: Sequence[TrialRecord]) -> dict[str, set[Any]]:
    found: dict[str, set[Any]] = {}
    for row in rows:
        for key, value in leaves_of(row.spec):
            found.setdefault(key, set()).add(value)
    return found


def _shown(values: set[Any] | None) -> str:
    return "absent" if values is None else ", ".join(sorted(map(str, values)))


def _check(first: str, second: str, differing: Mapping[str, tuple[str, str]]) -> None:
    """Raises: SpecError: losses of the two sweeps cannot be compared"""
    problems = [
        f"{key} is {values[0]} in {first} and {values[1]} in {second} ({remedy})"
        for key, values in differing.items()
        for part, remedy in REMEDIES.items()
        if is_below(key, part)
    ]
    if problems:
        raise SpecError(f"losses of these sweeps cannot be compared: {'; '.join(problems)}")


def _names(by_place: Mapping[str, Groups]) -> list[str]:
    return [f"{label}, {place}" for place, groups in by_place.items() for label in groups]


def _examples(by_place: Mapping[str, Groups]) -> str:
    names = _names(by_place)
    return f"one has {'; '.join(names[:3])}{' ...' if len(names) > 3 else ''}" if names else "none"
