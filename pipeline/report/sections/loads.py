"""What every expert got, in the best run and in the worst."""

from __future__ import annotations

from evenload.pipeline.charts.loads import load_by_layer, load_over_time
from evenload.pipeline.report.evidence import Evidence, LoadMap
from evenload.pipeline.report.page import Columns, Figure, Section, Text


def loads(evidence: Evidence) -> Section | None:
    if not evidence.maps:
        return None
    note = "A cell is the tokens that an expert got over its fair share, summed over the cell's "
    note += "steps before the ratio is formed."
    if len(evidence.maps) > 1:
        note = f"The recommended setting beside the least even one of its expert count. {note}"
    pairs = [_maps(found) for found in evidence.maps]
    rows = [Columns(row) for row in zip(*pairs, strict=True)]
    return Section("What the experts did", [Text(note), *rows])


def _maps(found: LoadMap) -> list[Figure]:
    """Layers by experts at the end of the run, and experts over time in its least even layer."""
    over_time = load_over_time(found.percent_BE, found.step_B, is_mean=True, height=360)
    return [
        Figure(
            load_by_layer(found.percent_LE, found.layer_names),
            f"{found.name}: layers and experts, last quarter",
        ),
        Figure(over_time, f"{found.name}: experts of layer {found.layer} over time"),
    ]
