"""The sections of a report in their order: each a function of the evidence, one file each.

Adding one is one file and one line here. A section that has nothing to say returns None.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.report.evidence import Evidence
from pipeline.report.page import Section
from pipeline.report.sections.answer import answer
from pipeline.report.sections.confirmation import confirmation
from pipeline.report.sections.cost import cost
from pipeline.report.sections.grid import grid
from pipeline.report.sections.loads import loads
from pipeline.report.sections.reproduction import reproduction
from pipeline.report.sections.settings import settings
from pipeline.report.sections.theory import theory
from pipeline.report.sections.trouble import trouble

SECTIONS: tuple[Callable[[Evidence], Section | None], ...] = (
    answer,
    settings,
    confirmation,
    grid,
    loads,
    theory,
    cost,
    trouble,
    reproduction,
)
