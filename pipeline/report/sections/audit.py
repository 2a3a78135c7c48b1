"""Reasons to distrust the answer, each with its evidence and a remedy."""

from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Section, Table, Text


def audit(evidence: Evidence) -> Section:
    if not evidence.findings:
        return Section(
            "Audit", [Text("Nothing found; `evenload audit` looks at the data as well.")]
        )
    columns = ("<finding", "<evidence", "<remedy")
    return Section("Audit", [Table(columns, [tuple(finding) for finding in evidence.findings])])
