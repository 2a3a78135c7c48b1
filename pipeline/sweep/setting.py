"""Balancing settings: means of figures over their trials, and comparisons between settings."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from evenload.pipeline.figures.metrics import METRICS, of_trials
from evenload.pipeline.spec.balancers import BALANCERS
from evenload.pipeline.spec.search_space import value_at, without
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.pareto import on_front
from evenload.pipeline.sweep.statistics import Interval, interval, p_value

LOSS, IMBALANCE = "val_bits_per_byte", "max_vio"


class Setting(NamedTuple):
    """One balancing setting in one stage, with means over its expert counts and seeds."""

    label: str
    kind: str
    trials: int
    figures: Mapping[str, float]  # means of all figures; NaN if one of the trials lacks it
    stage: Stage
    loss: Interval  # bits per byte; over seeds, of the means per seed
    imbalance: Interval  # max_vio, likewise
    on_front: bool  # whether no setting of the stage has less loss and less imbalance
    violates: tuple[str, ...]  # the constraints that the setting breaks, in words

    @property
    def bits_per_byte(self) -> float:
        return self.figures[LOSS]

    @property
    def max_vio(self) -> float:
        return self.figures[IMBALANCE]

    def shown(self, name: str) -> str:
        """A figure in its format, with its interval if it has one; a dash if it is missing."""
        intervals = {LOSS: self.loss, IMBALANCE: self.imbalance}
        return METRICS[name].shown(intervals.get(name, self.figures.get(name)))

    @property
    def is_yardstick(self) -> bool:
        """Whether it is a control or sees later tokens, so that it is never recommended."""
        return is_yardstick(self.kind)


class Comparison(NamedTuple):
    """Paired differences between two settings, at the same seed, expert count and data."""

    label: str
    against: str
    loss: Interval  # difference in bits per byte; negative if `label` is better
    imbalance: Interval  # difference in max_vio
    p_value: float | None  # of equal losses, by a two-sided paired t test; None without spread


def is_yardstick(kind: str) -> bool:
    return BALANCERS[kind].control or BALANCERS[kind].leaks_future


def setting_label(trial: TrialRecord, spec: SweepSpec | None) -> str:
    """The label of the rule, and the other values that the search tuned."""
    others = spec.tuned_beside_the_balancer() if spec is not None else ()
    return " ".join(
        [trial.label, *(f"{key.rpartition('.')[2]}={value_at(trial.spec, key)}" for key in others)]
    )


def by_setting(
    trials: Iterable[TrialRecord], stage: Stage, spec: SweepSpec | None = None
) -> dict[str, list[TrialRecord]]:
    """The trials of a stage, grouped by setting, in sweep order."""
    found: dict[str, list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        if stage_of(trial) is stage:
            found[setting_label(trial, spec)].append(trial)
    return dict(found)


def settings_of(
    trials: Sequence[TrialRecord], stage: Stage, spec: SweepSpec | None = None
) -> list[Setting]:
    """The settings of a stage whose trials are all complete, ordered by imbalance.

    Means over different sets of points could not be compared.
    """
    groups = {
        label: group
        for label, group in by_setting(trials, stage, spec).items()
        if all(map(is_comparable, group))
    }
    constraints = spec.objective.constraints if spec is not None else {}
    bounds = {str(name): bound for name, bound in constraints.items()}
    settings = [_setting(label, group, stage, bounds) for label, group in groups.items()]
    flags = on_front([(setting.bits_per_byte, setting.max_vio) for setting in settings])
    marked = (s._replace(on_front=flag) for s, flag in zip(settings, flags, strict=True))
    return sorted(marked, key=lambda setting: setting.max_vio)


def compare(
    label: str,
    group: Sequence[TrialRecord],
    against: str,
    other: Sequence[TrialRecord],
    spec: SweepSpec | None = None,
) -> Comparison | None:
    """The paired comparison of two settings; None if they have no trials in common places."""
    tuned = spec.tuned_beside_the_balancer() if spec is not None else ()
    counterparts = {_cell(trial, tuned): trial for trial in other}
    pairs = [
        (trial, counterparts[place])
        for trial in group
        if (place := _cell(trial, tuned)) in counterparts
    ]
    if not pairs:
        return None
    loss, imbalance = _differences(pairs, LOSS), _differences(pairs, IMBALANCE)
    return Comparison(label, against, interval(loss), interval(imbalance), p_value(loss))


def is_comparable(trial: TrialRecord) -> bool:
    """Whether the trial is complete and has the two figures by which settings are ranked."""
    is_known = not math.isnan(trial.figure(LOSS) + trial.figure(IMBALANCE))
    return trial.state is TrialState.COMPLETED and is_known


def stage_of(trial: TrialRecord) -> Stage:
    return trial.stage or Stage.TUNE


def seed_of(trial: TrialRecord) -> int:
    return int(trial.spec["train"]["seed"])


def _setting(
    label: str, group: Sequence[TrialRecord], stage: Stage, bounds: Mapping[str, float]
) -> Setting:
    figures = {
        metric.name: fmean(trial.figure(metric.name) for trial in group) for metric in of_trials()
    }
    return Setting(
        label=label,
        kind=group[0].spec["balancer"]["kind"],
        trials=len(group),
        figures=figures,
        stage=stage,
        loss=interval(_by_seed((seed_of(trial), trial.figure(LOSS)) for trial in group)),
        imbalance=interval(_by_seed((seed_of(trial), trial.figure(IMBALANCE)) for trial in group)),
        on_front=False,
        violates=tuple(
            _violation(name, figures[name], bound)
            for name, bound in bounds.items()
            if not figures[name] <= bound
        ),
    )


def _violation(name: str, value: float, bound: float) -> str:
    if math.isnan(value):
        return f"{name} was not recorded, so it may be above {bound:g}"
    return f"{name} {value:.3g} is above {bound:g}"


def _cell(trial: TrialRecord, tuned: Sequence[str]) -> str:
    """The parts of a spec that a pair has in common: model, data and training but tuned values."""
    parts = {name: trial.spec.get(name) for name in ("model", "data", "train")}
    return repr(without(parts, [key.split(".") for key in tuned]))


def _differences(pairs: Sequence[tuple[TrialRecord, TrialRecord]], figure: str) -> list[float]:
    """The mean difference of every seed."""
    return _by_seed(
        (seed_of(one), one.figure(figure) - other.figure(figure)) for one, other in pairs
    )


def _by_seed(values: Iterable[tuple[int, float]]) -> list[float]:
    """The mean of every seed. Trials with the same seed are one observation."""
    found: dict[int, list[float]] = defaultdict(list)
    for seed, value in values:
        found[seed].append(value)
    return [fmean(found[seed]) for seed in sorted(found)]
