"""How states, times and numbers are worded on every page."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from pipeline.records import SweepState, TrialState

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
    SweepState.CANCELLED: Wording("cancelled", ":material/cancel:", "orange"),
    SweepState.FINISHED: Wording("finished", ":material/check_circle:", "green"),
}


MEANINGS: dict[str, str] = {
    "max_vio": "largest load / fair share − 1, mean over layers, last quarter of the steps",
    "max_vio_floor": "MaxVio of a fair router by chance alone, at these tokens a step",
    "max_vio_ratio": "MaxVio over its floor; 1 is as even as chance allows",
    "avg_max_vio": "MaxVio, mean over all steps",
    "sup_max_vio": "MaxVio, worst step",
    "max_vio_global": "MaxVio over the whole evaluation set, biases frozen",
    "max_vio_global_floor": "its value by chance alone",
    "load_cv": "standard deviation of the load over its mean, last quarter",
    "effective_util": "mean over largest load, last quarter",
    "idle_frac": "share of experts without a token in one step, last quarter",
    "idle_expected": "the same under uniform random routing",
    "idle_streak_max": "longest run of steps in which one expert got no token",
    "dead_zero": "share of experts without a token in the dead window",
    "dead_tenth": "share below a tenth of their fair share in the dead window",
    "dead_window": "steps that the dead experts are judged over, the last ones",
    "count_check": "1: every layer of every step assigned tokens × top-k",
    "train_loss": "nats per token, mean of the last tenth of the steps",
    "val_loss": "nats per token, held out",
    "val_bits_per_byte": "held-out loss per byte of text",
    "val_perplexity": "exp of the held-out loss, per token",
    "eval_tokens": "tokens of the evaluation",
    "tokens": "tokens trained",
    "tokens_per_second": "tokens trained per second of training",
    "train_seconds": "seconds of training, checkpoints left out",
    "steps": "optimizer steps",
    "tracking_errors": "deliveries to MLflow or disk that failed at first",
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


def number(value: float, decimals: int, unit: str = "") -> str:
    """A number with its unit; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:,.{decimals}f}{unit}"
