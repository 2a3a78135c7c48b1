"""What every expert got, in the best run and in the worst."""

from __future__ import annotations

from evenload.pipeline.report.charts import load_key, load_maps
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Columns, Section, Text


def loads(evidence: Evidence) -> Section | None:
    if not evidence.maps:
        return None
    note = "A cell is the tokens that an expert got over its fair share, summed over the cell's "
    note += "steps before the ratio is formed."
    if len(evidence.maps) > 1:
        note = f"The recommended setting beside the least even one of its expert count. {note}"
    pairs = [load_maps(found) for found in evidence.maps]
    return Section(
        "What the experts did",
        [Text(note), load_key(), *(Columns(row) for row in zip(*pairs, strict=True))],
    )
