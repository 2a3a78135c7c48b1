"""The sections of a report, in their order. Each is a function of the evidence in its own file.

To add a section, add a file and an entry here. A section without content returns None.
"""

from collections.abc import Callable

from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Section
from evenload.pipeline.report.sections.answer import answer
from evenload.pipeline.report.sections.audit import audit
from evenload.pipeline.report.sections.confirmation import confirmation
from evenload.pipeline.report.sections.cost import cost
from evenload.pipeline.report.sections.grid import grid
from evenload.pipeline.report.sections.loads import loads
from evenload.pipeline.report.sections.reproduction import reproduction
from evenload.pipeline.report.sections.settings import settings
from evenload.pipeline.report.sections.step_sizes import step_sizes
from evenload.pipeline.report.sections.theory import theory
from evenload.pipeline.report.sections.trouble import trouble

SECTIONS: tuple[Callable[[Evidence], Section | None], ...] = (
    answer,
    audit,
    settings,
    step_sizes,
    confirmation,
    grid,
    loads,
    theory,
    cost,
    trouble,
    reproduction,
)
