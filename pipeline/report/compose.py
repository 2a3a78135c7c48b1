"""Composes the page of a report from the evidence."""

from evenload.pipeline.figures.wording import counted
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Page
from evenload.pipeline.report.sections import SECTIONS
from evenload.pipeline.states import TrialState


def compose(evidence: Evidence) -> Page:
    sections = [section(evidence) for section in SECTIONS]
    written = f"{evidence.written_at:%Y-%m-%d %H:%M} UTC"
    return Page(
        title=f"Expert balance: {evidence.sweep.name}",
        subtitle=_subtitle(evidence),
        sections=[section for section in sections if section is not None],
        footer=f"Written by evenload on {written} from sweep {evidence.sweep.sweep_id}.",
    )


def _subtitle(evidence: Evidence) -> str:
    sweep, trials = evidence.sweep, evidence.trials
    done = sum(trial.state is TrialState.COMPLETED for trial in trials)
    budgets = sorted({trial.planned_tokens for trial in trials})
    tokens = " or ".join(f"{budget:,}" for budget in budgets[:3])
    state = str(sweep.state)
    if sweep.finished_at is not None:
        state += f" on {sweep.finished_at:%Y-%m-%d %H:%M} UTC"
    return (
        f"Sweep {sweep.sweep_id}: {done} of {counted(len(trials), 'trial')} complete, "
        f"{tokens or 'no'} training tokens each; {state}"
    )
