"""Settings down, expert counts across: loss, imbalance and idle experts in every cell."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Cell, Columns, Heat, Section, Table, Text
from evenload.pipeline.spec.balancers import parse_balancer
from evenload.pipeline.states import Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.setting import setting_label, stage_of

Groups = Mapping[tuple[str, int], Sequence[TrialRecord]]


class Metric(NamedTuple):
    """A figure of the grid and how bad a value is: 0 good, 1 bad, given all of its column."""

    name: str
    title: str
    shown: Callable[[float], str]
    badness: Callable[[float, Sequence[float]], float]


def _from_the_least(value: float, values: Sequence[float]) -> float:
    """Differences below 0.05 bits per byte stay pale: they are within a seed's luck."""
    return (value - min(values)) / max(0.05, max(values) - min(values))


def _by_magnitude(value: float, values: Sequence[float]) -> float:
    """Logarithmic, so that one collapsed setting does not make all others look alike."""
    return math.log1p(value) / math.log1p(max(1.0, *values))


def _against_a_third(value: float, values: Sequence[float]) -> float:
    return value / max(1 / 3, *values)


METRICS = (
    Metric("val_bits_per_byte", "Bits per byte", "{:.3f}".format, _from_the_least),
    Metric("max_vio", "MaxVio, steady", "{:.2f}".format, _by_magnitude),
    Metric("idle_frac", "Idle experts in a step", "{:.1%}".format, _against_a_third),
)


def grid(evidence: Evidence) -> Section | None:
    groups: dict[tuple[str, int], list[TrialRecord]] = defaultdict(list)
    trials = [trial for trial in evidence.trials if stage_of(trial) is Stage.TUNE]
    steps: dict[str, tuple[str, float]] = {}
    for trial in trials:
        label = setting_label(trial, evidence.spec)
        balancer = parse_balancer(trial.spec["balancer"])
        steps[label] = (balancer.kind, balancer.step or 0.0)
        groups[label, _experts(trial)].append(trial)
    if len(steps) < 2:
        return None
    kinds = list(dict.fromkeys(kind for kind, _ in steps.values()))
    labels = sorted(steps, key=lambda label: (kinds.index(steps[label][0]), steps[label][1], label))
    experts = sorted({number for _, number in groups})
    tables = [_table(metric, labels, experts, groups) for metric in METRICS]
    return Section(
        "Step size by expert count",
        [
            Text(
                "What the search saw: means over seeds of the tune stage's finished trials; a "
                "cell without a figure says why. Colours compare the settings of one expert count."
            ),
            Columns(tables),
        ],
    )


def _table(metric: Metric, labels: Sequence[str], experts: Sequence[int], groups: Groups) -> Table:
    means = {
        cell: fmean(trial.result[metric.name] for trial in done)
        for cell, trials in groups.items()
        if (done := [trial for trial in trials if trial.state is TrialState.COMPLETED])
    }
    column = {
        number: [mean for (_, of), mean in means.items() if of == number] for number in experts
    }

    def cell(label: str, number: int) -> Cell:
        value = means.get((label, number))
        if value is None:
            return _reason(groups.get((label, number), ()))
        return Heat(metric.shown(value), metric.badness(value, column[number]))

    rows = [(label, *(cell(label, number) for number in experts)) for label in labels]
    title = f"{metric.title}, by experts"
    return Table(("<setting", *(str(number) for number in experts)), rows, title=title)


def _reason(trials: Sequence[TrialRecord]) -> str:
    states = list(dict.fromkeys(str(trial.state) for trial in trials))
    return ", ".join(states) or "not asked"


def _experts(trial: TrialRecord) -> int:
    return int(trial.spec["model"]["num_experts"])
