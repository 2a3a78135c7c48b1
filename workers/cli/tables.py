"""Records as rich tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from evenload.pipeline.states import Stage, SweepRecord, TrialRecord, TrialState


class Column(NamedTuple):
    title: str
    cell: Callable[[TrialRecord], str]
    usual: str | None = None  # the column is left out where every trial has this


def _figure(name: str, pattern: str) -> Callable[[TrialRecord], str]:
    return lambda trial: pattern.format(trial.result[name]) if name in trial.result else "-"


TRIAL_COLUMNS = (
    Column("rule", lambda trial: trial.label),
    Column("experts", lambda trial: str(trial.spec["model"]["num_experts"])),
    Column("seed", lambda trial: str(trial.spec["train"].get("seed", 0)), usual="0"),
    Column("stage", lambda trial: (trial.stage or Stage.TUNE).value, usual="tune"),
    Column("state", lambda trial: trial.state.value, usual="completed"),
    Column("val bits\nper byte", _figure("val_bits_per_byte", "{:.3f}")),
    Column("MaxVio\nglobal", _figure("max_vio_global", "{:.2f}")),
    Column("MaxVio\nbatch", _figure("max_vio", "{:.2f}")),
    Column("\nfloor", _figure("max_vio_floor", "{:.2f}")),
    Column("\nidle", _figure("idle_frac", "{:.1%}")),
    Column("\ndead", _figure("dead_tenth", "{:.1%}")),
    Column("utili-\nsation", _figure("effective_util", "{:.0%}")),
    Column("tokens\nper s", _figure("tokens_per_second", "{:,.0f}")),
)
LEGEND = (
    "MaxVio: load of the fullest expert over its fair share - 1, mean over layers. batch: one "
    "step, mean of the last quarter of the run; global: the whole held-out set; floor: what "
    "chance alone gives in one batch. idle: experts without a token in a step; dead: experts "
    "under a tenth of their fair share over the last {window} steps. utilisation: mean over "
    "fullest load."
)


def trial_table(trials: Sequence[TrialRecord]) -> Group:
    """One row a trial, in sweep order, and what the columns mean."""
    columns = [column for column in TRIAL_COLUMNS if _tells(column, trials)]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        left = column.title == "rule"
        table.add_column(column.title, justify="left" if left else "right", no_wrap=left)
    for trial in trials:
        style = "red" if trial.state is TrialState.FAILED else None
        table.add_row(*(column.cell(trial) for column in columns), style=style)
    windows = {int(t.result["dead_window"]) for t in trials if "dead_window" in t.result}
    window = " or ".join(str(steps) for steps in sorted(windows)) or "100"
    return Group(table, Text(LEGEND.format(window=window), style="dim"))


def _tells(column: Column, trials: Sequence[TrialRecord]) -> bool:
    return column.usual is None or {column.cell(trial) for trial in trials} != {column.usual}


def sweep_table(rows: Sequence[tuple[SweepRecord, Mapping[TrialState, int]]]) -> Table:
    """One row a sweep with its trials counted by state."""
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
