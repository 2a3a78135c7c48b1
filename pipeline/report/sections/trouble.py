"""Trials that failed or were stopped, and attempts that were lost, with the reasons."""

from collections import Counter, defaultdict

from evenload.pipeline.figures.wording import counted, listed
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Section, Table, Text, filled, present
from evenload.pipeline.states import AttemptState, TrialRecord, TrialState

OVER_EARLY = (TrialState.CANCELLED, TrialState.STOPPED)
SHOWN = 50


def trouble(evidence: Evidence) -> Section:
    blocks = present(
        _failures(evidence), _stops(evidence), _interruptions(evidence), _losses(evidence)
    )
    if evidence.sweep.note:
        blocks.insert(0, Text(f"The sweep: {evidence.sweep.note}"))
    unfinished = sum(not trial.state.is_final for trial in evidence.trials)
    if unfinished:
        blocks.insert(0, Text(f"{counted(unfinished, 'trial')} not finished yet."))
    if not blocks:
        blocks.append(Text("Nothing: no trial failed or was stopped, and no attempt was lost."))
    return Section("What went wrong", blocks)


def _failures(evidence: Evidence) -> Table | None:
    """One row per error, because a hundred trials that fail alike are one finding."""
    groups: dict[str, list[TrialRecord]] = defaultdict(list)
    for trial in evidence.trials:
        if trial.state is TrialState.FAILED:
            lines = (trial.error or "").strip().splitlines() or ["no reason given"]
            groups[lines[-1]].append(trial)
    rows = [
        (str(len(trials)), error, evidence.answer.axes.name(trials[0]), trials[0].digest)
        for error, trials in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    return filled(Table(("trials", "<error", "<for example", "<digest"), rows, title="Failed"))


def _stops(evidence: Evidence) -> Table | None:
    ended = [trial for trial in evidence.trials if trial.state in OVER_EARLY]
    rows = [
        (
            evidence.answer.axes.name(trial),
            str(trial.state),
            f"{trial.progress.step if trial.progress else 0} of {trial.spec['train']['steps']}",
            trial.stop_reason or "by a user",
        )
        for trial in ended[:SHOWN]
    ]
    more = len(ended) - SHOWN
    note = f"and {counted(more, 'other trial')}" if more > 0 else ""
    columns = ("<trial", "<state", "step", "<why")
    return filled(Table(columns, rows, note, title="Ended early on purpose"))


def _losses(evidence: Evidence) -> Table | None:
    rows = [(digest, text) for digest, text in evidence.lost.items()]
    more = len(rows) - SHOWN
    note = f"and {counted(more, 'other trial')}" if more > 0 else ""
    table = Table(("<trial", "<lost"), rows[:SHOWN], note, title="Records that this page lacks")
    return filled(table)


def _interruptions(evidence: Evidence) -> Text | None:
    """Attempts that ended without a verdict. Their trials then resumed or failed."""
    lost = [
        attempt
        for attempts in evidence.attempts.values()
        for attempt in attempts
        if attempt.state in (AttemptState.LOST, AttemptState.PREEMPTED, AttemptState.RELEASED)
    ]
    if not lost:
        return None
    reasons = Counter((attempt.exit_reason or "no reason given") for attempt in lost)
    named = [f"{reason} ({count})" for reason, count in reasons.most_common(5)]
    finished = sum(
        trial.state is TrialState.COMPLETED
        for trial in evidence.trials
        if trial.digest in {attempt.digest for attempt in lost}
    )
    return Text(
        f"{counted(len(lost), 'attempt')} ended without a verdict: {listed(named)}. "
        f"Trials of these that were completed later, from checkpoints: {finished:,}."
    )
