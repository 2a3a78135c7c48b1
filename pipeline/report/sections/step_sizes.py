"""Loss, evenness and idle experts of every rule against its step size."""

from evenload.pipeline.charts.step_sizes import step_chart
from evenload.pipeline.figures.step_curves import FIGURES
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Block, Columns, Figure, Section, Text
from evenload.pipeline.sweep.step_curves import ADVISED_RULE, NOTE, step_curves


def step_sizes(evidence: Evidence) -> Section | None:
    curves = {name: step_curves(evidence.answer, name) for name in FIGURES}
    rules = dict.fromkeys(curve.rule for found in curves.values() for curve in found)
    blocks: list[Block] = []
    for rule in rules:
        advised = evidence.advised if rule == ADVISED_RULE else {}
        panels = [
            Figure(step_chart([c for c in curves[name] if c.rule == rule], figure, advised), rule)
            for name, figure in FIGURES.items()
        ]
        blocks.append(Columns(panels))
    return Section("Step sizes", [Text(NOTE), *blocks]) if blocks else None
