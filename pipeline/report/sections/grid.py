"""Grids of loss, imbalance and idle experts: one row per setting, one column per expert count."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from evenload.pipeline.figures.metrics import Metric, in_grids
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Cell, Columns, Heat, Section, Table, Text
from evenload.pipeline.spec.balancers import parse_balancer
from evenload.pipeline.states import Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.setting import setting_label, stage_of

Groups = Mapping[tuple[str, int], Sequence[TrialRecord]]


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
    tables = [_table(metric, labels, experts, groups) for metric in in_grids()]
    return Section(
        "Step size by expert count",
        [
            Text(
                "Means over seeds of the completed trials of the tune stage. A cell without a "
                "figure has the reason instead. Colours compare the settings at one expert count."
            ),
            Columns(tables),
        ],
    )


def _table(metric: Metric, labels: Sequence[str], experts: Sequence[int], groups: Groups) -> Table:
    means = {cell: _mean(trials, metric.name) for cell, trials in groups.items()}
    column = {
        number: [mean for (_, of), mean in means.items() if of == number and not math.isnan(mean)]
        for number in experts
    }

    def cell(label: str, number: int) -> Cell:
        value = means.get((label, number), math.nan)
        if math.isnan(value):
            return _reason(groups.get((label, number), ()))
        return Heat(metric.shown(value), metric.badness(value, column[number]))

    rows = [(label, *(cell(label, number) for number in experts)) for label in labels]
    title = f"{metric.title}, by experts"
    return Table(("<setting", *(str(number) for number in experts)), rows, title=title)


def _mean(trials: Sequence[TrialRecord], name: str) -> float:
    """The mean over the completed trials that have the figure; NaN if none has it."""
    done = [trial for trial in trials if trial.state is TrialState.COMPLETED]
    values = [value for trial in done if not math.isnan(value := trial.figure(name))]
    return fmean(values) if values else math.nan


def _reason(trials: Sequence[TrialRecord]) -> str:
    states = list(dict.fromkeys(str(trial.state) for trial in trials))
    if states == [TrialState.COMPLETED]:
        return "not recorded"
    return ", ".join(states) or "not in the sweep"


def _experts(trial: TrialRecord) -> int:
    return int(trial.spec["model"]["num_experts"])
