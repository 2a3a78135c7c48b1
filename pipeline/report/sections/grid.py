"""Grids of loss, imbalance and idle experts: one row per setting, one column per place."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from evenload.pipeline.figures.metrics import Metric, in_grids
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Cell, Columns, Heat, Section, Table, Text
from evenload.pipeline.spec.balancers import parse_balancer
from evenload.pipeline.states import Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.axes import stage_of

Groups = Mapping[tuple[str, str], Sequence[TrialRecord]]  # setting and place -> trials


def grid(evidence: Evidence) -> Section | None:
    axes = evidence.answer.axes
    groups: dict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
    trials = [trial for trial in evidence.trials if stage_of(trial) is Stage.TUNE]
    steps: dict[str, tuple[str, float]] = {}
    for trial in trials:
        label = axes.setting(trial)
        balancer = parse_balancer(trial.spec["balancer"])
        steps[label] = (balancer.kind, balancer.step or 0.0)
        groups[label, axes.place(trial)].append(trial)
    if len(steps) < 2:
        return None
    kinds = list(dict.fromkeys(kind for kind, _ in steps.values()))
    labels = sorted(steps, key=lambda label: (kinds.index(steps[label][0]), steps[label][1], label))
    places = list(dict.fromkeys(place for _, place in groups))
    tables = [_table(metric, labels, places, groups) for metric in in_grids()]
    note = (
        "Means over seeds of the completed trials of the tune stage. A cell without a figure has "
        "the reason instead. Colours compare the settings at one place."
    )
    return Section("Settings by place", [Text(note), Columns(tables)])


def _table(metric: Metric, labels: Sequence[str], places: Sequence[str], groups: Groups) -> Table:
    means = {cell: _mean(trials, metric.name) for cell, trials in groups.items()}
    column = {
        place: [mean for (_, at), mean in means.items() if at == place and not math.isnan(mean)]
        for place in places
    }

    def cell(label: str, place: str) -> Cell:
        value = means.get((label, place), math.nan)
        if math.isnan(value):
            return _reason(groups.get((label, place), ()))
        return Heat(metric.shown(value), metric.badness(value, column[place]))

    rows = [(label, *(cell(label, place) for place in places)) for label in labels]
    return Table(("<setting", *places), rows, title=metric.title)


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
