"""Tokens and time to a target loss, beside the loss at the end of the budget."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple

from evenload.pipeline.states import CurvePoint, TrialRecord
from evenload.pipeline.sweep.axes import Axes
from evenload.pipeline.sweep.statistics import Interval, interval

Curves = Mapping[str, Sequence[CurvePoint]]


class TargetRow(NamedTuple):
    """One setting at one place. Losses are those of learning curves, in nats per token."""

    label: str
    place: str
    target_loss: float
    trials: int
    reached: int  # number of trials that reached the target
    tokens: float | None  # median over trials; None if less than half reached the target
    seconds: float | None  # training time, likewise
    final_loss: Interval  # at the end of the budget


def target_rows(
    trials: Sequence[TrialRecord], curves: Curves, target_loss: float | None, axes: Axes
) -> tuple[TargetRow, ...]:
    """One row per place and setting, in sweep order, over trials that trained to their end.

    A setting that never reaches the target has a row, too. Without `target_loss`, the target at a
    place is the final loss of training without balancing; if the sweep does not train without
    balancing, it is the final loss of the worst setting.
    """
    groups: dict[str, dict[str, list[TrialRecord]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        curve = curves.get(trial.digest, ())
        if curve and curve[-1].step == trial.spec["train"]["steps"]:
            groups[axes.place(trial)][axes.setting(trial)].append(trial)
    targets = {
        place: target_loss or _target(settings, curves) for place, settings in groups.items()
    }
    return tuple(
        _row(label, place, group, curves, targets[place])
        for place, settings in groups.items()
        for label, group in settings.items()
    )


def crossing(curve: Sequence[CurvePoint], target_loss: float) -> tuple[float, float] | None:
    """Tokens and seconds at which the loss first reaches the target; None if it does not.

    The curve is linear between its points.
    """
    before: CurvePoint | None = None
    for point in curve:
        if point.val_loss <= target_loss:
            if before is None:
                return float(point.tokens), point.seconds
            share = (before.val_loss - target_loss) / (before.val_loss - point.val_loss)
            return (
                before.tokens + share * (point.tokens - before.tokens),
                before.seconds + share * (point.seconds - before.seconds),
            )
        before = point
    return None


def _target(settings: Mapping[str, Sequence[TrialRecord]], curves: Curves) -> float:
    ends = {
        label: fmean(curves[trial.digest][-1].val_loss for trial in group)
        for label, group in settings.items()
    }
    plain = [loss for label, loss in ends.items() if label.split()[0] == "none"]
    return min(plain or [max(ends.values())])


def _row(
    label: str, place: str, group: Sequence[TrialRecord], curves: Curves, target_loss: float
) -> TargetRow:
    found = [crossing(curves[trial.digest], target_loss) for trial in group]
    reached = [point for point in found if point is not None]
    never = [math.inf] * (len(found) - len(reached))
    return TargetRow(
        label=label,
        place=place,
        target_loss=target_loss,
        trials=len(group),
        reached=len(reached),
        tokens=_median([tokens for tokens, _ in reached] + never),
        seconds=_median([seconds for _, seconds in reached] + never),
        final_loss=interval([curves[trial.digest][-1].val_loss for trial in group]),
    )


def _median(values: Sequence[float]) -> float | None:
    middle = median(values)
    return middle if math.isfinite(middle) else None
