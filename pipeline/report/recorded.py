"""The page of a recorded run: how evenly it is loaded. It claims nothing about losses."""

from datetime import UTC, datetime

import numpy as np

from evenload.pipeline.charts.loads import load_by_layer, load_over_time
from evenload.pipeline.charts.over_time import bias_paths, idle_over_time, max_vio_over_time
from evenload.pipeline.figures.loads import Loads, utilisation
from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.records.load_series import LoadSeries, percent_of_fair, read_series
from evenload.pipeline.records.recorded_runs import LATEST_STEPS, RecordedRun, facts
from evenload.pipeline.records.shards import read_history
from evenload.pipeline.report.page import Columns, Figure, Page, Section, Table, Text, Tile, Tiles


def compose_recorded(run: RecordedRun) -> Page:
    """The page of a run as far as it is recorded."""
    series = read_series(run.folder, run.outline)
    record = Section("What is known", [Table(("<", "<Value"), facts(run))])
    sections = [record] if series.is_empty else [_balance(run), _over_time(run, series), record]
    return Page(
        title=f"Expert balance: {run.name}",
        subtitle=f"{run.source}, rule {run.label}, {run.last_step:,} steps, {run.state()}",
        sections=sections,
        footer=f"Written by evenload on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC from the "
        f"recorded run {run.run_id}.",
    )


def _balance(run: RecordedRun) -> Section:
    found = run.figures()
    tiles = [
        Tile(METRICS[n].shown(v), METRICS[n].title, METRICS[n].meaning) for n, v in found.items()
    ]
    steps = min(LATEST_STEPS, max(1, run.last_step // 4))
    window = f"Means over layers and the last {steps:,} steps. Nothing is said about the loss."
    return Section("Balance", [Tiles(tiles), Text(window)])


def _over_time(run: RecordedRun, series: LoadSeries) -> Section:
    names, target = list(run.shape.layers), run.outline.target_E
    empty_SLE = np.zeros((0, len(names), run.shape.num_experts), np.int32)
    fair = Loads(empty_SLE, series.tokens_per_step, run.shape.top_k, target)
    first = max(1, run.last_step - max(1, run.last_step // 4) + 1, run.last_step - LATEST_STEPS + 1)
    late_SLE = read_history(run.folder, first=first, columns=["load"]).count_SLE
    late_LE = late_SLE.sum(axis=0, dtype=np.int64)
    layer = int(np.nan_to_num(series.max_vio_BL[-1], nan=-1.0).argmax())
    vio = max_vio_over_time(series.max_vio_BL, series.step_B, names, fair.max_vio_floor)
    idle = idle_over_time(series.idle_BL, series.step_B, names, fair.idle_expected)
    by_layer = load_by_layer(percent_of_fair(utilisation(late_LE, target)), names)
    over_time = load_over_time(series.mean_percent_BE(layer), series.step_B, True, height=360)
    bias = bias_paths(series.bias_BE(layer), series.step_B)
    rows = [
        [Figure(vio, "MaxVio by layer"), Figure(idle, "Idle experts by layer")],
        [
            Figure(by_layer, "Layers and experts, end of the run"),
            Figure(over_time, f"Experts of layer {names[layer]} over time"),
        ],
        [Figure(bias, f"Biases of layer {names[layer]}")],
    ]
    return Section("Loads of the experts", [Columns(row) for row in rows])
