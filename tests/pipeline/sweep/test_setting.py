from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import CurvePoint, Progress, Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.recommend import recommend
from evenload.pipeline.sweep.setting import compare, settings_of

Row = Callable[..., TrialRecord]
BASE: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign"},
}
RULES: list[dict[str, Any]] = [{"kind": "none"}, {"kind": "sign"}, {"kind": "quantile"}]
CONFIRM = {"top": 2, "seeds": [7, 8, 9]}


def trial(kind: str, seed: int = 0, experts: int = 16, rate: float = 0.003) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "model": {"preset": "tiny", "num_experts": experts},
            "train": BASE["train"] | {"seed": seed, "learning_rate": rate},
            "balancer": {"kind": kind},
        }
    )


def sweep(**more: Any) -> SweepSpec:
    return SweepSpec(name="s", base=BASE, axes={"balancer": RULES}, **more)


@pytest.fixture
def tuned(row: Row) -> list[TrialRecord]:
    """In the search `sign` is lucky: it is the most even rule and has the best loss."""
    return [
        row(trial("none"), 3.0, 4.0, stage=Stage.TUNE),
        row(trial("sign"), 2.9, 0.1, stage=Stage.TUNE),
        row(trial("quantile"), 2.95, 0.3, stage=Stage.TUNE),
    ]


@pytest.fixture
def confirmed(row: Row) -> list[TrialRecord]:
    """With fresh seeds `sign` is worse than without balancing by 0.1 in every seed."""
    losses = {"none": 3.0, "sign": 3.1, "quantile": 2.96}
    loads = {"none": 4.0, "sign": 0.2, "quantile": 0.3}
    return [
        row(trial(kind, seed), losses[kind] + 0.01 * seed, loads[kind], stage=Stage.CONFIRM)
        for seed in (7, 8, 9)
        for kind in losses
    ]


def test_only_the_confirm_stage_is_reported(
    tuned: list[TrialRecord], confirmed: list[TrialRecord]
) -> None:
    spec = sweep(confirm=CONFIRM)
    before = recommend(tuned, spec)
    assert before.best is not None
    assert (before.best.label, before.stage, before.is_confirmed) == (
        "sign 0.001",
        Stage.TUNE,
        False,
    )
    assert "not confirmed yet: figures of the search itself" in before.sentence

    after = recommend([*tuned, *confirmed], spec)
    assert after.best is not None
    assert (after.best.label, after.stage, after.is_confirmed) == ("quantile", Stage.CONFIRM, True)
    assert after.best.trials == 3
    assert {setting.stage for setting in after.settings} == {Stage.CONFIRM}
    assert [setting.label for setting in after.tuned] == ["sign 0.001", "quantile", "none"]
    assert "confirmed with 3 fresh seeds" in after.sentence
    assert after.runner_up is not None
    assert (after.runner_up.label, after.runner_up.against) == ("quantile", "sign 0.001")
    assert after.runner_up.loss.mean == pytest.approx(-0.14)
    assert "next setting, sign 0.001, its loss differs by -0.140 ± 0.000" in after.sentence


def test_a_difference_within_its_interval_may_be_luck(confirmed: list[TrialRecord]) -> None:
    assert "which may be luck" not in recommend(confirmed).sentence
    noisy = [
        replace(r, result=r.result | {"val_bits_per_byte": 2.9 + 0.1 * (i % 5)})
        for i, r in enumerate(confirmed)
    ]
    assert "which may be luck" in recommend(noisy).sentence


def test_a_confirm_stage_that_still_runs_is_not_called_confirmed(
    tuned: list[TrialRecord], confirmed: list[TrialRecord]
) -> None:
    confirmed[-2] = replace(confirmed[-2], state=TrialState.TRAINING)  # sign, seed 9
    found = recommend([*tuned, *confirmed], sweep(confirm=CONFIRM))
    assert (found.stage, found.is_confirmed) == (Stage.CONFIRM, False)
    assert "with 3 fresh seeds; 1 of its trials still to come" in found.sentence


def test_without_a_confirm_stage_the_sentence_says_so(tuned: list[TrialRecord]) -> None:
    assert "(not confirmed: figures of the search itself" in recommend(tuned, sweep()).sentence
    assert "(not confirmed: figures of the search itself" in recommend(tuned).sentence


def test_figures_have_intervals_over_seeds(confirmed: list[TrialRecord]) -> None:
    """The losses of quantile are 3.03, 3.04 and 3.05, so s = 0.01; t(2) = 4.303."""
    [quantile] = [s for s in settings_of(confirmed, Stage.CONFIRM) if s.label == "quantile"]
    assert quantile.loss.mean == pytest.approx(3.04)
    assert quantile.loss.half == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-3)
    assert quantile.loss.seeds == 3


def test_two_expert_counts_of_one_seed_are_one_observation(row: Row) -> None:
    rows = [
        row(trial("sign", seed, experts), 3 + seed + (experts == 32))
        for seed in (0, 1)
        for experts in (16, 32)
    ]
    [setting] = settings_of(rows, Stage.TUNE)
    assert (setting.trials, setting.loss.seeds, setting.loss.mean) == (4, 2, 4.0)
    assert setting.loss.half == pytest.approx(12.706 * 0.70711 / 2**0.5, rel=1e-3)


def test_a_pair_has_the_same_seed_experts_data_and_training(row: Row) -> None:
    """Each place has its own level of loss, but the paired difference is 0.1 everywhere."""
    places = [
        (seed, experts, rate) for seed in (0, 1) for experts in (16, 32) for rate in (1e-3, 9e-3)
    ]
    level = {place: 3.0 + n for n, place in enumerate(places)}
    none = [row(trial("none", *place), level[place]) for place in places]
    sign = [row(trial("sign", *place), level[place] - 0.1) for place in reversed(places)]
    found = compare("sign", sign, "none", none)
    assert found is not None
    assert found.loss.mean == pytest.approx(-0.1)
    assert found.loss.half == pytest.approx(0.0, abs=1e-12)
    assert compare("sign", sign, "none", [row(trial("none", seed=5))]) is None


def test_tuned_values_may_differ_within_a_pair(row: Row) -> None:
    rates = {"low": 0.001, "high": 0.01}
    axes = {"balancer": RULES, "train.learning_rate": rates}
    spec = SweepSpec(name="s", base=BASE, axes=axes, search={"kind": "tpe"})
    none, sign = row(trial("none", rate=0.001), 3.0), row(trial("sign", rate=0.004), 2.9)
    assert compare("a", [sign], "b", [none]) is None
    found = compare("a", [sign], "b", [none], spec)
    assert found is not None
    assert found.loss.mean == pytest.approx(-0.1)
    labels = [setting.label for setting in recommend([none, sign], spec).settings]
    assert labels == ["none learning_rate=0.001", "sign 0.001 learning_rate=0.004"]


def test_the_control_is_the_best_setting_without_balancing(row: Row) -> None:
    axes = {"balancer": RULES, "train.learning_rate": {"low": 0.001, "high": 0.01}}
    spec = SweepSpec(name="s", base=BASE, axes=axes, search={"kind": "tpe"})
    rows = [row(trial("none", rate=0.001), 3.5, 2.0), row(trial("none", rate=0.002), 3.0, 4.0)]
    control = recommend(rows, spec).control
    assert control is not None
    assert control.label == "none learning_rate=0.002"


def test_settings_that_break_a_constraint_are_not_recommended(tuned: list[TrialRecord]) -> None:
    tight = recommend(tuned, sweep(objective={"constraints": {"max_vio": 0.2}}))
    assert tight.best is not None
    assert tight.best.label == "sign 0.001"
    idle = {"constraints": {"max_vio": 0.05}}
    none_legal = recommend(tuned, sweep(objective=idle))
    assert none_legal.best is None
    assert "every setting breaks a constraint" in none_legal.sentence
    assert "max_vio 0.1 is above 0.05" in none_legal.sentence


def test_the_tolerance_comes_from_the_sweep(tuned: list[TrialRecord]) -> None:
    rows = [
        replace(r, result=r.result | {"val_bits_per_byte": 2.97}) if i == 1 else r
        for i, r in enumerate(tuned)
    ]  # sign: 0.7 % above quantile
    assert recommend(rows, sweep()).best is not None
    best = recommend(rows, sweep(objective={"loss_tolerance": 0.005})).best
    assert best is not None
    assert best.label == "quantile"


def test_the_front_is_marked(tuned: list[TrialRecord]) -> None:
    assert [(s.label, s.on_front) for s in recommend(tuned).settings] == [
        ("sign 0.001", True),
        ("quantile", False),
        ("none", False),
    ]


def test_stopped_trials_are_named_with_their_reason_and_do_not_compete(
    tuned: list[TrialRecord],
) -> None:
    tuned[1] = replace(
        tuned[1],
        state=TrialState.STOPPED,
        stop_reason="asha: too bad",
        progress=Progress(3, 4, 192, 1.0, 3.0, 0.1),
    )
    found = recommend(tuned, sweep())
    assert found.best is not None
    assert found.best.label == "quantile"
    [stopped] = found.stopped
    assert (stopped.label, stopped.step, stopped.steps, stopped.reason) == (
        "sign 0.001",
        3,
        4,
        "asha: too bad",
    )


def test_targets_are_of_the_stage_that_counts(
    tuned: list[TrialRecord], confirmed: list[TrialRecord]
) -> None:
    rows = [*tuned, *confirmed]
    curves = {r.digest: [CurvePoint(4, 256, 1.0, r.result["val_bits_per_byte"], 0.1)] for r in rows}
    found = recommend(rows, sweep(confirm=CONFIRM), curves)
    assert {(row.label, row.trials, row.reached) for row in found.targets} == {
        ("none", 3, 2),  # the target is its mean final loss
        ("sign 0.001", 3, 0),
        ("quantile", 3, 3),
    }


@pytest.mark.parametrize("others", [TrialState.QUEUED, TrialState.FAILED])
def test_a_single_complete_setting_confirms_nothing(
    tuned: list[TrialRecord], confirmed: list[TrialRecord], others: TrialState
) -> None:
    rows = [each if each.label == "quantile" else replace(each, state=others) for each in confirmed]
    answer = recommend([*tuned, *rows], sweep(confirm=CONFIRM))
    assert answer.best is not None
    assert (answer.best.label, answer.stage, answer.is_confirmed) == (
        "sign 0.001",
        Stage.TUNE,
        False,
    )
    assert "not confirmed yet" in answer.sentence
