"""Shows trials and sweeps as tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group, JustifyMethod
from rich.table import Table
from rich.text import Text

from evenload.pipeline.figures.metrics import Metric, columns, legend
from evenload.pipeline.figures.wording import wrapped
from evenload.pipeline.states import SweepRecord, TrialRecord, TrialState
from evenload.pipeline.sweep.axes import EXPERTS, Axes, seed_of, stage_of, value_of

RULE = "rule"


class Column(NamedTuple):
    title: str
    cell: Callable[[TrialRecord], str]
    usual: str | None = None  # the column is left out if every trial has this value


def trial_table(trials: Sequence[TrialRecord], axes: Axes) -> Group:
    """One row per trial in the order of the sweep, and a legend of the columns."""
    shown = [column for column in _about_a_trial(axes) if _is_unusual(column, trials)]
    shown += [Column(wrapped(metric.head), _figure(metric)) for metric in columns()]
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)  # so that it fits into 80 columns
    for column in shown:
        left = column.title == RULE
        justify: JustifyMethod = "left" if left else "right"
        table.add_column(column.title, justify=justify, no_wrap=left, vertical="bottom")
    for trial in trials:
        style = "red" if trial.state is TrialState.FAILED else None
        table.add_row(*(column.cell(trial) for column in shown), style=style)
    return Group(table, Text(f"\n{legend(columns())}", style="dim"))


def _about_a_trial(axes: Axes) -> list[Column]:
    keys = [EXPERTS, *(key for key in (*axes.per, *axes.chosen) if key != EXPERTS)]
    return [
        Column(RULE, lambda trial: trial.label),
        *(Column(wrapped(key.rpartition(".")[2].replace("_", " ")), _value(key)) for key in keys),
        Column("seed", lambda trial: str(seed_of(trial)), usual="0"),
        Column("stage", lambda trial: stage_of(trial).value, usual="tune"),
        Column("state", lambda trial: trial.state.value, usual="completed"),
    ]


def _value(key: str) -> Callable[[TrialRecord], str]:
    return lambda trial: str(value_of(trial.spec, key))


def _figure(metric: Metric) -> Callable[[TrialRecord], str]:
    return lambda trial: metric.shown(trial.figure(metric.name))


def _is_unusual(column: Column, trials: Sequence[TrialRecord]) -> bool:
    return column.usual is None or {column.cell(trial) for trial in trials} != {column.usual}


def sweep_table(rows: Sequence[tuple[SweepRecord, Mapping[TrialState, int]]]) -> Table:
    """One row per sweep with the number of its trials by state."""
    table = Table()
    for title in ("sweep", "state", "trials", "completed", "running", "failed", "created (UTC)"):
        table.add_column(title, justify="left" if title in ("sweep", "state") else "right")
    for sweep, counts in rows:
        table.add_row(
            sweep.sweep_id,
            sweep.state.value,
            f"{sum(counts.values())}",
            f"{counts.get(TrialState.COMPLETED, 0)}",
            f"{sum(count for state, count in counts.items() if state.is_held)}",
            f"{counts.get(TrialState.FAILED, 0)}",
            f"{sweep.created_at:%Y-%m-%d %H:%M}",
        )
    return table
