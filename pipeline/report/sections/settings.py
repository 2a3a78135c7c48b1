"""The section with the figures of every setting, and with loss against imbalance."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from evenload.pipeline.charts.front import Point, Role, pareto_front
from evenload.pipeline.figures.metrics import METRICS, columns, legend
from evenload.pipeline.figures.wording import NONE, wrapped
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Block, Columns, Figure, Section, Table, Text
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.sweep.pareto import on_front
from evenload.pipeline.sweep.setting import (
    IMBALANCE,
    LOSS,
    Comparison,
    Setting,
    by_setting,
    is_comparable,
    is_yardstick,
    seed_of,
    setting_label,
    stage_of,
)
from evenload.pipeline.sweep.statistics import interval

MAX_PANELS = 6
SPEED = "tokens_per_second"  # left out, because it depends on the machines


def settings(evidence: Evidence) -> Section | None:
    found = evidence.answer
    if not found.settings:
        return None
    numbers = {setting.label: row for row, setting in enumerate(found.settings, 1)}
    blocks: list[Block] = [
        Text(
            "Settings with all trials complete, sorted by imbalance. Means over expert counts; ± "
            "is the 95 % interval over seeds (Student's t). Yardsticks are controls, and rules "
            "that see later tokens; they are never recommended."
        ),
        _table(evidence, numbers),
    ]
    panels = _panels(evidence, numbers)
    if panels:
        note = (
            "Lower left is better. Numbers are those in the table. Line: no other setting has both "
            "less loss and less imbalance. A yardstick far away is named below the axis."
        )
        blocks += [Text(note), Columns(panels)]
    return Section("Evidence", blocks)


def _table(evidence: Evidence, numbers: dict[str, int]) -> Table:
    found = evidence.answer
    compared = {comparison.label: comparison for comparison in found.comparisons}
    others = [metric for metric in columns() if metric.name not in (LOSS, SPEED)]
    rows = [
        (
            str(numbers[setting.label]),
            setting.label,
            str(setting.trials),
            setting.shown(LOSS),
            _difference(compared.get(setting.label)),
            *(setting.shown(metric.name) for metric in others),
            _remark(setting, found.best),
        )
        for setting in found.settings
    ]
    best = {numbers[found.best.label] - 1} if found.best else set()
    titles = ("#", "<setting", "trials", wrapped(METRICS[LOSS].head), "against\nnone")
    note = f"{legend([METRICS[LOSS], *others])} Against none: paired by seed, negative is better."
    if missing := _incomplete(evidence):
        note += f" Left out because they are incomplete: {missing}."
    heads = (wrapped(metric.head) for metric in others)
    return Table((*titles, *heads, "<"), rows, note, frozenset(best))


def _incomplete(evidence: Evidence) -> str:
    groups = by_setting(evidence.trials, evidence.answer.stage, evidence.spec)
    done = {
        label: sum(is_comparable(trial) for trial in trials) for label, trials in groups.items()
    }
    return ", ".join(
        f"{label} ({done[label]} of {len(trials)} trials)"
        for label, trials in groups.items()
        if done[label] < len(trials)
    )


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return NONE
    text = format(comparison.loss, "+.3f")
    return text if comparison.p_value is None else f"{text} (p {comparison.p_value:.1g})"


def _remark(setting: Setting, best: Setting | None) -> str:
    if best is not None and setting.label == best.label:
        return "recommended"
    if setting.is_yardstick:
        return "yardstick"
    if setting.violates:
        return "; ".join(setting.violates)
    return "Pareto" if setting.on_front else ""


def _panels(evidence: Evidence, numbers: dict[str, int]) -> list[Figure]:
    """One chart per expert count, because losses at different counts cannot be compared."""
    groups: dict[int, dict[str, list[TrialRecord]]] = defaultdict(lambda: defaultdict(list))
    for trial in evidence.trials:
        label = setting_label(trial, evidence.spec)
        is_reported = stage_of(trial) is evidence.answer.stage and label in numbers
        if is_reported and is_comparable(trial):
            groups[int(trial.spec["model"]["num_experts"])][label].append(trial)
    best = evidence.answer.best
    panels = []
    for experts, by_label in sorted(groups.items())[:MAX_PANELS]:
        if len(by_label) > 1:
            floor = fmean(t.figure("max_vio_floor") for trials in by_label.values() for t in trials)
            points = _points(by_label, numbers, best.label if best else None)
            panels.append(Figure(pareto_front(points, floor, height=360), f"{experts} experts"))
    return panels


def _points(
    by_label: dict[str, list[TrialRecord]], numbers: dict[str, int], best: str | None
) -> list[Point]:
    means = {
        label: (_mean(trials, LOSS), _mean(trials, IMBALANCE)) for label, trials in by_label.items()
    }
    flags = dict(zip(means, on_front(list(means.values())), strict=True))
    return [
        Point(
            label,
            _role(trials[0], label == best),
            max_vio=means[label][1],
            bits=means[label][0],
            bits_half=_half(trials) or math.nan,
            on_front=flags[label],
            trials=len(trials),
            is_yardstick=is_yardstick(trials[0].spec["balancer"]["kind"]),
            mark=str(numbers[label]),
        )
        for label, trials in by_label.items()
    ]


def _role(trial: TrialRecord, is_best: bool) -> Role:
    if is_best:
        return "recommended"
    return "controls" if is_yardstick(trial.spec["balancer"]["kind"]) else "settings"


def _mean(trials: Sequence[TrialRecord], figure: str) -> float:
    return fmean(trial.figure(figure) for trial in trials)


def _half(trials: Sequence[TrialRecord]) -> float | None:
    by_seed: dict[int, list[float]] = defaultdict(list)
    for trial in trials:
        by_seed[seed_of(trial)].append(trial.figure(LOSS))
    return interval([fmean(values) for values in by_seed.values()]).half
