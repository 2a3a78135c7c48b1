"""Statements of the theory, and in how many runs they hold."""

from collections import defaultdict

from evenload.pipeline.figures.wording import counted
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Section, Table, Text
from evenload.pipeline.report.run_theory import STATEMENTS, Verdict, verdicts

SHOWN = 6  # number of exceptions that are named per statement


def theory(evidence: Evidence) -> Section | None:
    found: dict[str, list[tuple[str, Verdict]]] = defaultdict(list)
    for trial in evidence.trials:
        name = evidence.answer.axes.both(trial)
        for verdict in verdicts(trial, evidence.conducts[trial.digest]):
            found[verdict.statement].append((name, verdict))
    if not found:
        return None
    rows = [
        (words, f"{sum(verdict.holds for _, verdict in held)} of {len(held)}", _words(held))
        for statement, words in STATEMENTS.items()
        if (held := found[statement])
    ]
    note = (
        "Predictions of the theory of the dual update about counts and biases, compared with every "
        "recorded run. A statement that does not hold points to a bug, or to a run that is too "
        "short for its step size."
    )
    columns = ("<statement", "holds\nin", "<exceptions, or the run that comes nearest to one")
    return Section("Theory", [Text(note), Table(columns, rows)])


def _words(held: list[tuple[str, Verdict]]) -> str:
    by_strain = sorted(held, key=lambda entry: -entry[1].strain)
    broken = [(name, verdict) for name, verdict in by_strain if not verdict.holds]
    if not broken:
        name, verdict = by_strain[0]
        if verdict.strain == 0:
            return "exactly, in every run"
        return f"nearest is {name}: {verdict.observed} ({verdict.predicted})"
    named = [f"{name}: {verdict.observed}" for name, verdict in broken[:SHOWN]]
    more = len(broken) - SHOWN
    rest = f"; and {counted(more, 'other')}" if more > 0 else ""
    return f"{broken[0][1].predicted}, but {'; '.join(named)}{rest}"
