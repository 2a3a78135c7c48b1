"""Recommends the most even setting among those with a loss near the best one. A pure function.

If a sweep has a confirm stage, the figures of that stage count. Figures of the tune stage only
serve to choose settings for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evenload.pipeline.spec.sweep import Objective, SweepSpec
from evenload.pipeline.states import CurvePoint, Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.setting import (
    Comparison,
    Setting,
    by_setting,
    compare,
    is_comparable,
    seed_of,
    setting_label,
    settings_of,
    stage_of,
)
from evenload.pipeline.sweep.targets import TargetRow, target_rows
from evenload.pipeline.sweep.transfer import Transfer, transfers

Curves = Mapping[str, Sequence[CurvePoint]]


class Stopped(NamedTuple):
    """A trial that did not train to its end, and why."""

    digest: str
    label: str
    num_experts: int
    seed: int
    step: int  # the last trained step
    steps: int
    reason: str


class Recommendation(NamedTuple):
    """The answer of a sweep. `settings`, `best` and `control` belong to `stage`."""

    best: Setting | None
    control: Setting | None  # the setting without balancing, if the sweep has one
    settings: tuple[Setting, ...]  # all complete ones, by imbalance
    sentence: str
    stage: Stage  # the stage whose figures count
    is_confirmed: bool  # whether the figures have fresh seeds and the confirm stage is over
    tuned: tuple[Setting, ...]  # settings of the tune stage, by imbalance
    comparisons: tuple[Comparison, ...]  # every setting with the control, paired by seed
    targets: tuple[TargetRow, ...]  # time to a target loss, and loss at the end of the budget
    transfers: tuple[Transfer, ...]  # whether the best step size is the same with more experts
    stopped: tuple[Stopped, ...]
    runner_up: Comparison | None  # the recommended setting with the next one of the ranking


def recommend(
    trials: Sequence[TrialRecord], spec: SweepSpec | None = None, curves: Curves | None = None
) -> Recommendation:
    """Recommends the most even setting that has nearly the least loss and breaks no constraint.

    Only settings whose trials are all complete compete. Controls and rules that leak future tokens
    are never recommended.

    Args:     spec: of the sweep; None: there are no constraints and no confirm stage
              curves: digest -> learning curve, for the time to the target loss
    """
    objective = spec.objective if spec is not None else Objective()
    tuned, confirmed = (settings_of(trials, stage, spec) for stage in (Stage.TUNE, Stage.CONFIRM))
    # The confirm stage counts once two of its settings are complete and can be compared.
    stage = Stage.CONFIRM if len(confirmed) > 1 else Stage.TUNE
    settings = confirmed if stage is Stage.CONFIRM else tuned
    control = control_of(settings)
    order = ranking(settings, objective)
    best = order[0] if order and len(settings) > 1 and not order[0].violates else None
    is_confirmed = stage is Stage.CONFIRM and all(
        trial.state.is_final for trial in trials if stage_of(trial) is stage
    )
    groups = _complete_groups(trials, stage, spec)
    comparisons = _against_control(groups, control, spec)
    runner_up = _against_next(groups, order, spec) if best is not None else None
    return Recommendation(
        best=best,
        control=control,
        settings=tuple(settings),
        sentence=_no_answer(trials, order)
        if best is None
        else _sentence(
            best, control, comparisons, runner_up, _reliability(trials, spec, stage, objective)
        ),
        stage=stage,
        is_confirmed=is_confirmed,
        tuned=tuple(tuned),
        comparisons=comparisons,
        targets=target_rows(
            [trial for trial in trials if stage_of(trial) is stage],
            curves or {},
            objective.target_loss,
            lambda trial: setting_label(trial, spec),
        ),
        transfers=transfers([trial for trial in trials if stage_of(trial) is Stage.TUNE]),
        stopped=tuple(_stopped(t, spec) for t in trials if t.state is TrialState.STOPPED),
        runner_up=runner_up,
    )


def control_of(settings: Sequence[Setting]) -> Setting | None:
    """The setting without balancing; of several with other tuned values, that of the least loss."""
    plain = [setting for setting in settings if setting.kind == "none"]
    return min(plain, key=lambda setting: setting.bits_per_byte, default=None)


def ranking(settings: Sequence[Setting], objective: Objective) -> list[Setting]:
    """Settings that may be recommended, best first.

    Settings within the tolerance of the least loss come first, by imbalance, and then the others,
    by loss. Settings that break a constraint come last and do not count for the least loss.
    """
    rivals = [setting for setting in settings if not setting.is_yardstick]
    legal = [setting for setting in rivals if not setting.violates]
    least = min((setting.bits_per_byte for setting in legal), default=0.0)
    limit = least * (1 + objective.loss_tolerance)
    near = [setting for setting in legal if setting.bits_per_byte <= limit]
    far = [setting for setting in legal if setting.bits_per_byte > limit]
    return [
        *sorted(near, key=lambda setting: setting.max_vio),
        *sorted(far, key=lambda setting: setting.bits_per_byte),
        *sorted((s for s in rivals if s.violates), key=lambda setting: setting.max_vio),
    ]


def _complete_groups(
    trials: Sequence[TrialRecord], stage: Stage, spec: SweepSpec | None
) -> dict[str, list[TrialRecord]]:
    return {
        label: [trial for trial in group if is_comparable(trial)]
        for label, group in by_setting(trials, stage, spec).items()
    }


def _against_next(
    groups: Mapping[str, Sequence[TrialRecord]], order: Sequence[Setting], spec: SweepSpec | None
) -> Comparison | None:
    if len(order) < 2:
        return None
    best, second = order[0].label, order[1].label
    return compare(best, groups[best], second, groups[second], spec)


def _against_control(
    groups: Mapping[str, Sequence[TrialRecord]], control: Setting | None, spec: SweepSpec | None
) -> tuple[Comparison, ...]:
    if control is None:
        return ()
    found = (
        compare(label, group, control.label, groups[control.label], spec)
        for label, group in groups.items()
        if label != control.label
    )
    return tuple(comparison for comparison in found if comparison is not None)


def _stopped(trial: TrialRecord, spec: SweepSpec | None) -> Stopped:
    return Stopped(
        digest=trial.digest,
        label=setting_label(trial, spec),
        num_experts=int(trial.spec["model"]["num_experts"]),
        seed=seed_of(trial),
        step=trial.progress.step if trial.progress is not None else 0,
        steps=int(trial.spec["train"]["steps"]),
        reason=trial.stop_reason or "no reason given",
    )


def _no_answer(trials: Sequence[TrialRecord], order: Sequence[Setting]) -> str:
    if order and order[0].violates:
        return (
            f"No recommendation: every setting breaks a constraint; the most even one is "
            f"{order[0].label}, whose {' and '.join(order[0].violates)}."
        )
    done = sum(trial.state is TrialState.COMPLETED for trial in trials)
    return (
        f"No recommendation: {done} of {len(trials)} trials are complete. A recommendation needs "
        "two settings whose trials are all complete, at least one of which is not a control."
    )


def _reliability(
    trials: Sequence[TrialRecord], spec: SweepSpec | None, stage: Stage, objective: Objective
) -> str:
    """A phrase that tells how far the figures can be trusted."""
    seeds = len({seed_of(trial) for trial in trials if stage_of(trial) is stage})
    counted = "one seed" if seeds == 1 else f"{seeds} seeds"
    equal = f"losses within {objective.loss_tolerance:.0%} count as equal"
    if stage is Stage.CONFIRM:
        left = sum(not t.state.is_final for t in trials if stage_of(t) is stage)
        waiting = f"; {left} of its trials still to come" if left else ""
        fresh = "one fresh seed" if seeds == 1 else f"{seeds} fresh seeds"
        return f"confirmed with {fresh}{waiting}; {equal}"
    missing = "not confirmed yet" if spec is not None and spec.confirm else "not confirmed"
    return f"{missing}: figures of the search itself; {counted}; {equal}"


def _sentence(
    best: Setting,
    control: Setting | None,
    comparisons: Sequence[Comparison],
    runner_up: Comparison | None,
    reliability: str,
) -> str:
    text = (
        f"Take {best.label}: MaxVio {best.shown('max_vio')} (a fair router would show "
        f"{best.shown('max_vio_floor')}), {best.shown('idle_frac')} idle experts, "
        f"{best.loss:.3f} bits per byte"
    )
    if control is not None:
        text += (
            f"; without balancing MaxVio is {control.shown('max_vio')} with "
            f"{control.shown('idle_frac')} idle at {control.loss:.3f} bits per byte"
        )
    paired = next((c for c in comparisons if c.label == best.label), None)
    if paired is not None and paired.loss.half is not None:
        text += f", a paired difference of {paired.loss:+.3f}"
        if abs(paired.loss.mean) <= paired.loss.half:
            text += ", which may be luck"
    if runner_up is not None and runner_up.loss.half is not None:
        text += (
            f"; compared with the next setting, {runner_up.against}, its loss differs by "
            f"{runner_up.loss:+.3f} and its MaxVio by {runner_up.imbalance:+.2f}"
        )
    return f"{text} ({reliability})."
