"""The section with the loads of all experts in the best and in the worst run."""

from evenload.pipeline.charts.loads import load_by_layer, load_over_time
from evenload.pipeline.report.evidence import Evidence, LoadMap
from evenload.pipeline.report.page import Columns, Figure, Section, Text


def loads(evidence: Evidence) -> Section | None:
    if not evidence.maps:
        return None
    note = "The colour of a cell is the number of tokens of an expert, summed over the steps of "
    note += "the cell, divided by its fair share."
    if len(evidence.maps) > 1:
        note = f"The named setting, or the most even one, and the least even one there. {note}"
    pairs = [_maps(found) for found in evidence.maps]
    rows = [Columns(row) for row in zip(*pairs, strict=True)]
    return Section("Loads of the experts", [Text(note), *rows])


def _maps(found: LoadMap) -> list[Figure]:
    """Loads of all layers at the end of the run, and of its least even layer over time."""
    over_time = load_over_time(found.percent_BE, found.step_B, is_mean=True, height=360)
    by_layer = load_by_layer(found.percent_LE, found.layer_names)
    return [
        Figure(by_layer, f"{found.name}: layers and experts, last quarter"),
        Figure(over_time, f"{found.name}: experts of layer {found.layer} over time"),
    ]
