"""Which setting to take: the most even one among those that do not cost loss.

Pure: trials in, a recommendation with its evidence out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from pipeline.balancers import BALANCERS
from pipeline.records import TrialRecord, TrialState

# A setting may lose this share of the best loss and still count as "no worse": one seed tells
# no finer difference (the seeds of one rule spread over about 1 % in runs of a few million tokens).
LOSS_TOLERANCE = 0.01


class Setting(NamedTuple):
    """One balancing setting, averaged over its expert counts and seeds."""

    label: str
    kind: str
    trials: int
    bits_per_byte: float
    max_vio: float
    max_vio_floor: float
    idle_frac: float
    effective_util: float


class Recommendation(NamedTuple):
    best: Setting | None
    control: Setting | None  # "none", where the sweep has it
    settings: tuple[Setting, ...]  # by imbalance, all complete ones
    sentence: str


def recommend(trials: Sequence[TrialRecord]) -> Recommendation:
    """The most even setting whose loss is within `LOSS_TOLERANCE` of the best one.

    Only settings that finished at every point of the grid compete: an average over fewer points
    would compare different things. Controls and rules that leak future tokens never win.
    """
    settings = sorted(_settings(trials), key=lambda setting: setting.max_vio)
    control = next((setting for setting in settings if setting.kind == "none"), None)
    rivals = [setting for setting in settings if not _is_yardstick(setting.kind)]
    if not rivals or len(settings) == 1:
        return Recommendation(None, control, tuple(settings), _no_answer(trials))
    limit = min(setting.bits_per_byte for setting in rivals) * (1 + LOSS_TOLERANCE)
    best = next(setting for setting in rivals if setting.bits_per_byte <= limit)
    return Recommendation(best, control, tuple(settings), _sentence(best, control, trials))


def _settings(trials: Sequence[TrialRecord]) -> Iterable[Setting]:
    by_label: dict[str, list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        by_label[trial.label].append(trial)
    for label, group in by_label.items():
        if all(trial.state is TrialState.COMPLETED for trial in group):
            yield Setting(
                label,
                group[0].spec["balancer"]["kind"],
                len(group),
                *(
                    fmean(trial.result[name] for trial in group)
                    for name in (
                        "val_bits_per_byte",
                        "max_vio",
                        "max_vio_floor",
                        "idle_frac",
                        "effective_util",
                    )
                ),
            )


def _is_yardstick(kind: str) -> bool:
    return BALANCERS[kind].control or BALANCERS[kind].leaks_future


def _no_answer(trials: Sequence[TrialRecord]) -> str:
    done = sum(trial.state is TrialState.COMPLETED for trial in trials)
    return (
        f"No recommendation: {done} of {len(trials)} trials are complete, and it takes two "
        "settings, one of them no control, that are complete at every point of the grid."
    )


def _sentence(best: Setting, control: Setting | None, trials: Sequence[TrialRecord]) -> str:
    seeds = len({trial.spec["train"]["seed"] for trial in trials})
    text = (
        f"Take {best.label}: MaxVio {best.max_vio:.2f} (a fair router would show "
        f"{best.max_vio_floor:.2f}), {best.idle_frac:.1%} idle experts, "
        f"{best.bits_per_byte:.3f} bits per byte"
    )
    if control is not None:
        text += (
            f"; without balancing MaxVio is {control.max_vio:.2f} with {control.idle_frac:.1%} "
            f"idle at {control.bits_per_byte:.3f} bits per byte"
        )
    counted = "one seed" if seeds == 1 else f"{seeds} seeds"
    return f"{text} ({counted}; losses within {LOSS_TOLERANCE:.0%} count as equal)."
