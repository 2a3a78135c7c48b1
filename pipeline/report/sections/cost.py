"""The section with the cost of the sweep and of imbalance at expert-parallel sizes."""

import math
from collections import defaultdict
from collections.abc import Mapping

from evenload.pipeline.charts.cost import SettingWaits, waits_by_ranks
from evenload.pipeline.figures.cost import EP_SIZES, SweepCost, basis, sweep_cost
from evenload.pipeline.figures.wording import NONE, duration, number, scaled
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Block, Figure, Section, Table, Text, Tile, Tiles


def cost(evidence: Evidence) -> Section | None:
    total = evidence.cost
    if not any(trial.seconds for trial in total.trials):
        return None
    by_setting = cost_by_setting(evidence)
    blocks: list[Block] = [
        Tiles(_tiles(total, evidence.held_seconds)),
        Text(basis(total, evidence.cost_settings)),
    ]
    if total.waiting:
        blocks += _waiting(evidence, by_setting)
    blocks.append(_table(by_setting))
    return Section("Cost", blocks)


def cost_by_setting(evidence: Evidence) -> dict[str, SweepCost]:
    """The cost of every setting at every place, summed over its trials of both stages."""
    label_of = {trial.digest: evidence.answer.axes.both(trial) for trial in evidence.trials}
    groups = defaultdict(list)
    for trial in evidence.cost.trials:
        groups[label_of[trial.digest]].append(trial)
    return {label: sweep_cost(trials) for label, trials in groups.items()}


def _tiles(total: SweepCost, held_seconds: float) -> list[Tile]:
    trained = sum(trial.seconds for trial in total.trials)
    tiles = []
    if total.gpu_seconds:
        tiles.append(Tile(duration(total.gpu_seconds), "of GPU training"))
    if total.core_seconds:
        tiles.append(Tile(duration(total.core_seconds), "of CPU core training"))
    return [
        *tiles,
        Tile(scaled(total.joules / 3600, "Wh"), "energy of training"),
        Tile(scaled(total.grams, "g"), "CO2 equivalent"),
        *_busy(trained, held_seconds),
    ]


def _busy(trained: float, held: float) -> list[Tile]:
    """The share of training steps in the time that workers held trials, if it is known."""
    if not 0 < trained <= held:
        return []
    note = "the rest: start-up, checkpoints, evaluation and lost attempts"
    return [Tile(number(trained / held, ".0%"), "of the workers' time was training steps", note)]


def _waiting(evidence: Evidence, by_setting: Mapping[str, SweepCost]) -> list[Block]:
    shares = {
        label: share_R for label, found in by_setting.items() if (share_R := steady_shares(found))
    }
    note = Text(
        "If these models were trained expert-parallel, every rank would wait in every layer for "
        "the fullest one. The table uses the recorded loads of the last quarter of the runs, with "
        "experts placed in order and step time proportional to model FLOPs. It is a lower bound: "
        "communication and differences between micro-batches are left out."
    )
    if not shares:
        return [note]
    sizes = [size for size in EP_SIZES if any(size in share_R for share_R in shares.values())]
    rows = [
        (label, *(number(share_R.get(size), ".1%") for size in sizes))
        for label, share_R in shares.items()
    ]
    named = {setting.name for setting in evidence.answer.named}
    marked = frozenset(row for row, label in enumerate(shares) if label in named)
    series = [SettingWaits(label, share_R, share_R, share_R) for label, share_R in shares.items()]
    lines = waits_by_ranks(series, sizes, sizes[-1], height=320)
    columns = ("<setting", *(f"{size} ranks" for size in sizes))
    title = "Share of a step lost to imbalance"
    return [note, Figure(lines, title, 560), Table(columns, rows, marked=marked)]


def steady_shares(found: SweepCost) -> dict[int, float]:
    """Share of a step lost to imbalance by expert-parallel size, in the last quarter of runs."""
    return {
        entry.ranks: entry.steady_step_share
        for entry in found.waiting
        if not math.isnan(entry.steady_step_share)
    }


def _table(by_setting: Mapping[str, SweepCost]) -> Table:
    rows = [
        (
            label,
            str(len(found.trials)),
            duration(found.gpu_seconds) if found.gpu_seconds else NONE,
            duration(found.core_seconds) if found.core_seconds else NONE,
            scaled(found.joules / 3600, "Wh"),
            scaled(found.grams, "g"),
        )
        for label, found in by_setting.items()
    ]
    columns = ("<setting", "trials", "GPU time", "core time", "energy", "CO2e")
    return Table(columns, rows, title="Cost of each setting")
