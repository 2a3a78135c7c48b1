"""Words for states, times and counts on all pages."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from evenload.pipeline.figures.wording import NONE, duration
from evenload.pipeline.records.recorded_runs import RunState
from evenload.pipeline.states import SweepRecord, SweepState, TrialRecord, TrialState

Colour = Literal["blue", "green", "orange", "red", "gray", "violet"]


class Wording(NamedTuple):
    text: str
    icon: str
    colour: Colour


TRIAL_STATES: dict[TrialState, Wording] = {
    TrialState.QUEUED: Wording("queued", ":material/schedule:", "gray"),
    TrialState.TRAINING: Wording("training", ":material/play_circle:", "blue"),
    TrialState.TRAINED: Wording("awaits evaluation", ":material/hourglass_top:", "violet"),
    TrialState.EVALUATING: Wording("evaluating", ":material/rule:", "violet"),
    TrialState.COMPLETED: Wording("completed", ":material/check_circle:", "green"),
    TrialState.FAILED: Wording("failed", ":material/error:", "red"),
    TrialState.STOPPED: Wording("stopped early", ":material/stop_circle:", "orange"),
    TrialState.CANCELLED: Wording("cancelled", ":material/cancel:", "orange"),
}
SWEEP_STATES: dict[SweepState, Wording] = {
    SweepState.ACTIVE: Wording("active", ":material/play_circle:", "blue"),
    SweepState.PAUSED: Wording("paused", ":material/pause_circle:", "orange"),
    SweepState.STOPPING: Wording("stopping", ":material/stop_circle:", "orange"),
    SweepState.CANCELLED: Wording("cancelled", ":material/cancel:", "orange"),
    SweepState.FINISHED: Wording("finished", ":material/check_circle:", "green"),
}

RUN_STATES: dict[RunState, Wording] = {
    RunState.LIVE: Wording("live", ":material/play_circle:", "blue"),
    RunState.ENDED: Wording("ended", ":material/check_circle:", "green"),
    RunState.STALE: Wording("no step for long", ":material/hourglass_empty:", "orange"),
}


WITH_FAILURES = Wording("finished, some failed", ":material/error:", "orange")
ALL_FAILED = Wording("all trials failed", ":material/error:", "red")


def sweep_wording(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> Wording:
    """The state of a sweep. A finished one says whether trials failed."""
    return state_wording(
        sweep.state, sum(t.state is TrialState.FAILED for t in trials), len(trials)
    )


def state_wording(state: SweepState, failed: int, trials: int) -> Wording:
    if state is not SweepState.FINISHED or not failed:
        return SWEEP_STATES[state]
    return ALL_FAILED if failed == trials else WITH_FAILURES


def ago(when: datetime | None, now: datetime | None = None) -> str:
    """`3 min 05 s ago`; a dash if there is no time."""
    if when is None:
        return NONE
    return f"{duration(((now or datetime.now(UTC)) - when).total_seconds())} ago"


SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(count: int) -> str:
    """A short count: `9,999`, `12.3k`, `100k`, `1.5M`."""
    if count < 10_000:
        return f"{count:,}"
    scale, letter = next((scale, letter) for scale, letter in SCALES if count >= scale)
    return f"{count / scale:,.1f}".removesuffix(".0") + letter
