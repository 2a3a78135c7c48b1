"""How states, times and numbers are worded on every page."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from evenload.pipeline.states import SweepState, TrialState

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


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`; a dash for NaN."""
    if math.isnan(seconds):
        return "–"
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes == 0:
        return f"{whole} s"
    if hours == 0:
        return f"{minutes} min {whole % 60:02d} s"
    if days == 0:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{days} d {hours % 24} h"


def ago(when: datetime | None, now: datetime | None = None) -> str:
    """`3 min 05 s ago`; a dash for a time that is not there."""
    if when is None:
        return "–"
    return f"{duration(((now or datetime.now(UTC)) - when).total_seconds())} ago"


SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(count: int) -> str:
    """A count that fits beside another one: `9,999`, `100k`, `12.3k`, `1.5M`."""
    if count < 10_000:
        return f"{count:,}"
    scale, letter = next((scale, letter) for scale, letter in SCALES if count >= scale)
    return f"{count / scale:,.1f}".removesuffix(".0") + letter


def number(value: float, decimals: int, unit: str = "") -> str:
    """A number with its unit; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:,.{decimals}f}{unit}"
