"""Settings: means of figures over the seeds of one rule, with all its parameters, at one place."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from statistics import fmean
from typing import Any, NamedTuple

from evenload.pipeline.figures.metrics import METRICS, of_trials
from evenload.pipeline.spec.balancers import BALANCERS, parse_balancer
from evenload.pipeline.states import Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.axes import Axes, seed_of, stage_of
from evenload.pipeline.sweep.statistics import Interval, interval

LOSS, IMBALANCE, FLOOR = "val_bits_per_byte", "max_vio", "max_vio_floor"
IDLE = "idle_frac"
TINY = 1e-3  # the logarithm of MaxVio over its floor needs a positive number

Group = Sequence[TrialRecord]
Bounds = Mapping[Any, float]  # upper bounds by the names of figures


class Verdict(StrEnum):
    """What the answer says about a setting."""

    NAMED = "named"
    TIED = "tied in evenness"
    PASSES = "within the margin"
    POSSIBLE = "possible"
    OUT = "beyond the margin"
    CONTROL = "control"
    LEAKS = "sees later tokens"
    VIOLATES = "breaks a constraint"
    DROPPED = "dropped from the race"
    UNKNOWN = "not compared"


class Setting(NamedTuple):
    """One setting at one place in one stage. Only seeds are averaged."""

    label: str
    kind: str
    place: str
    stage: Stage
    seeds: int
    figures: Mapping[str, float]  # means over seeds; NaN if one of the trials lacks it
    loss: Interval  # bits per byte, by Student's t
    imbalance: Interval  # max_vio, likewise
    over_floor: float  # geometric mean of max_vio over its floor
    log_over_floor: Interval  # logarithm of max_vio over its floor, likewise
    idle_percent: Interval  # idle experts, likewise
    step: float | None  # step size or coefficient of the rule, if it has one
    violates: tuple[str, ...]  # the constraints that the setting breaks, in words
    on_front: bool = False  # whether no setting of the place has less loss and less imbalance
    above_best: float = math.nan  # loss above the least one of the others: at most
    above_best_low: float = math.nan  # and at least
    against_none: Interval | None = None  # difference in loss; all of a place hold together
    digest: str = ""  # of its first complete trial
    verdict: Verdict = Verdict.UNKNOWN

    @property
    def name(self) -> str:
        return f"{self.label}, {self.place}"

    @property
    def mean_loss(self) -> float:
        return self.loss.mean

    @property
    def max_vio(self) -> float:
        return self.imbalance.mean

    def in_unit(self, factor: float) -> Setting:
        """The setting with losses in another unit, of which `factor` are one bit per byte."""
        return self._replace(
            figures={**self.figures, LOSS: factor * self.figures[LOSS]},
            loss=self.loss.scaled(factor),
            above_best=factor * self.above_best,
            above_best_low=factor * self.above_best_low,
            against_none=self.against_none and self.against_none.scaled(factor),
        )

    def shown(self, name: str) -> str:
        """A figure in its format, with its interval if it has one; a dash if it is missing."""
        intervals = {LOSS: self.loss, IMBALANCE: self.imbalance}
        return METRICS[name].shown(intervals.get(name, self.figures.get(name)))

    @property
    def remark(self) -> str:
        """What the answer says about it, in a few words."""
        is_illegal = self.verdict is Verdict.VIOLATES
        return "; ".join(self.violates) if is_illegal else self.verdict.value

    @property
    def is_yardstick(self) -> bool:
        """Whether it is a control or sees later tokens, so that it is never named."""
        return is_yardstick(self.kind)


def is_yardstick(kind: str) -> bool:
    return BALANCERS[kind].control or BALANCERS[kind].leaks_future


def is_comparable(trial: TrialRecord) -> bool:
    """Whether the trial is complete and has the two figures that are compared."""
    is_known = math.isfinite(trial.figure(LOSS) + trial.figure(IMBALANCE))
    return trial.state is TrialState.COMPLETED and is_known


def grouped(
    trials: Iterable[TrialRecord], stage: Stage, axes: Axes
) -> dict[str, dict[str, list[TrialRecord]]]:
    """Place -> setting -> its trials of a stage, in sweep order."""
    found: dict[str, dict[str, list[TrialRecord]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        if stage_of(trial) is stage:
            found[axes.place(trial)][axes.setting(trial)].append(trial)
    return {place: dict(groups) for place, groups in found.items()}


def why_left_out(group: Group) -> str:
    """Why a setting cannot be compared; empty if it can.

    Failed trials are holes. A setting that diverged or was stopped somewhere is left out, because
    the seeds that are missing would have been bad ones.
    """
    done = sum(map(is_comparable, group))
    diverged = sum(t.state is TrialState.COMPLETED and not is_comparable(t) for t in group)
    if diverged:
        return f"no finite loss or MaxVio in {diverged} of {len(group)} trials"
    if stopped := sum(trial.state is TrialState.STOPPED for trial in group):
        return f"stopped early in {stopped} of {len(group)} trials"
    return "" if done else f"{done} of {len(group)} trials complete"


def settings_at(place: str, groups: Mapping[str, Group], constraints: Bounds) -> dict[str, Setting]:
    """The settings of a place that can be compared."""
    return {
        label: setting_of(label, place, group, constraints)
        for label, group in groups.items()
        if not why_left_out(group)
    }


def setting_of(label: str, place: str, group: Group, constraints: Bounds | None = None) -> Setting:
    """The means of a setting over its complete trials, of which there is at least one."""
    done = [trial for trial in group if is_comparable(trial)]
    evenness = interval([*map(log_over_floor, done)])
    figures = {
        metric.name: fmean(trial.figure(metric.name) for trial in done) for metric in of_trials()
    }
    return Setting(
        label=label,
        kind=done[0].spec["balancer"]["kind"],
        place=place,
        stage=stage_of(done[0]),
        seeds=len(done),
        figures=figures,
        loss=interval([trial.figure(LOSS) for trial in done]),
        imbalance=interval([trial.figure(IMBALANCE) for trial in done]),
        over_floor=math.exp(evenness.mean),
        log_over_floor=evenness,
        idle_percent=interval([100 * trial.figure(IDLE) for trial in done]),
        step=parse_balancer(done[0].spec["balancer"]).step,
        violates=tuple(
            _violation(name, figures[name], bound)
            for name, bound in (constraints or {}).items()
            if not figures[name] <= bound
        ),
        digest=done[0].digest,
    )


def log_over_floor(trial: TrialRecord) -> float:
    """The logarithm of MaxVio over its floor, or of MaxVio where no floor was recorded."""
    floor = trial.figure(FLOOR)
    ratio = trial.figure(IMBALANCE) / floor if floor > 0 else trial.figure(IMBALANCE)
    return math.log(max(ratio, TINY))


def by_seed(group: Group) -> dict[int, TrialRecord]:
    """The complete trials by seed."""
    return {seed_of(trial): trial for trial in group if is_comparable(trial)}


def _violation(name: str, value: float, bound: float) -> str:
    if math.isnan(value):
        return f"{name} was not recorded, so it may be above {bound:g}"
    return f"{name} {value:.3g} is above {bound:g}"
