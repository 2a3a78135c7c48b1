from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import CurvePoint, Progress, Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.answer import Answer, answer_of
from evenload.pipeline.sweep.answer_text import place_note, sentence
from evenload.pipeline.sweep.places import PlaceAnswer
from evenload.pipeline.sweep.setting import Verdict

Row = Callable[..., TrialRecord]
Make = Callable[..., list[TrialRecord]]
BASE: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign"},
}
RULES: list[dict[str, Any]] = [
    {"kind": "none"},
    {"kind": "sign", "step_size": 0.01},
    {"kind": "quantile"},
]
NOISE = 0.004  # standard deviation of a loss; the margin is 0.03


def spec_of(balancer: Mapping[str, Any], seed: int, experts: int = 16, rate: float = 3e-3) -> Any:
    train = BASE["train"] | {"seed": seed, "learning_rate": rate}
    model = {"preset": "tiny", "num_experts": experts}
    return TrialSpec.model_validate({"model": model, "train": train, "balancer": balancer})


def sweep(axes: Mapping[str, Any] | None = None, **more: Any) -> SweepSpec:
    return SweepSpec(name="s", base=BASE, axes=axes or {"balancer": RULES}, **more)


@pytest.fixture
def make(row: Row) -> Make:
    """Makes trials of RULES with these true losses and MaxVio, with a level per seed and noise."""

    def trials(
        losses: Sequence[float],
        vios: Sequence[float],
        seeds: Sequence[int] = range(6),
        stage: Stage = Stage.TUNE,
        noise: float = NOISE,
        **place: Any,
    ) -> list[TrialRecord]:
        rng = np.random.default_rng(len(seeds))
        return [
            row(
                spec_of(rule, seed, **place),
                loss + 0.1 * math.sin(seed) + noise * rng.normal(),
                vio * math.exp(0.05 * rng.normal()),
                stage=stage,
            )
            for seed in seeds
            for rule, loss, vio in zip(RULES, losses, vios, strict=True)
        ]

    return trials


def only(answer: Answer) -> PlaceAnswer:
    (place,) = answer.places
    return place


def verdicts(place: PlaceAnswer) -> dict[str, Verdict]:
    return {setting.label: setting.verdict for setting in place.settings}


def test_the_most_even_of_the_settings_with_a_good_loss_is_named(make: Make) -> None:
    place = only(answer_of(make([3.0, 2.999, 3.001], [4.0, 0.5, 0.2]), sweep()))
    assert verdicts(place) == {
        "quantile": Verdict.NAMED,
        "sign 0.01": Verdict.PASSES,
        "none": Verdict.CONTROL,
    }
    assert place.named is not None
    assert place.named.above_best <= place.margin == pytest.approx(0.03, abs=0.002)
    assert place.noise == pytest.approx(NOISE, rel=0.5)
    assert place.named.over_floor == pytest.approx(2.0, rel=0.1)


def test_balance_that_is_bought_with_loss_is_not_named(make: Make) -> None:
    """quantile is the most even by far, and its loss is two margins above the least one."""
    place = only(answer_of(make([3.0, 3.0, 3.06], [4.0, 0.5, 0.1]), sweep()))
    assert verdicts(place)["quantile"] is Verdict.OUT
    assert verdicts(place)["sign 0.01"] is Verdict.NAMED


def test_settings_that_are_equally_even_are_listed_as_ties(make: Make) -> None:
    place = only(answer_of(make([3.0, 3.0, 3.0], [4.0, 0.3, 0.3]), sweep()))
    assert sorted(verdicts(place).values()) == [Verdict.CONTROL, Verdict.NAMED, Verdict.TIED]
    assert len(place.even_ties) == 1


def test_where_nothing_passes_there_is_no_claim_but_a_number_of_seeds(make: Make) -> None:
    answer = answer_of(make([3.0, 3.0, 3.0], [4.0, 0.5, 0.2], seeds=(0, 1), noise=0.02), sweep())
    place = only(answer)
    assert place.named is None
    assert set(verdicts(place).values()) == {Verdict.CONTROL, Verdict.POSSIBLE}
    assert place.more_seeds is not None
    text = sentence(answer)
    assert "At 16 experts, no claim about loss. Least loss so far: " in text
    assert "Most even: " in text
    assert "Without balancing MaxVio is " in text
    assert f"evenload sweep extend ID --seeds {place.more_seeds}`" in text


def test_confirming_the_best_is_proposed_where_it_takes_fewer_trials(row: Row) -> None:
    steps = [{"kind": "sign", "step_size": 0.001 * n} for n in range(1, 13)]
    trials = [
        row(spec_of(rule, seed), 3.0 + 0.02 * (-1) ** (at + seed), 0.5)
        for at, rule in enumerate([{"kind": "none"}, *steps])
        for seed in (0, 1)
    ]
    answer = answer_of(trials, sweep({"balancer": [{"kind": "none"}, *steps]}))
    place = only(answer)
    assert place.more_seeds is not None
    assert place.seeds_for_top is not None
    assert 4 * place.seeds_for_top < 13 * place.more_seeds
    assert f"`evenload sweep extend ID --seeds {place.seeds_for_top} --top 3`" in sentence(answer)


def test_one_seed_claims_nothing_about_loss(make: Make) -> None:
    answer = answer_of(make([3.0, 2.9, 3.0], [4.0, 0.5, 0.2], seeds=(0,)), sweep())
    place = only(answer)
    assert place.named is None
    assert math.isnan(place.noise)
    assert place.is_noise_assumed
    assert place.even_ties == ("sign 0.01",)
    assert "no claim about loss: one seed" in sentence(answer)
    assert "cannot be told apart from sign 0.01" in sentence(answer)


def test_a_running_sweep_is_provisional(make: Make) -> None:
    trials = make([3.0, 3.0, 3.0], [4.0, 0.5, 0.2])
    trials[-1] = replace(trials[-1], state=TrialState.TRAINING)
    answer = answer_of(trials, sweep())
    assert answer.is_provisional
    assert not answer.named
    assert sentence(answer).startswith("Provisional: 17 of 18 trials are over")
    assert answer_of([*trials[:-1], replace(trials[-1], state=TrialState.FAILED)]).named


def test_only_seeds_are_averaged(make: Make, row: Row) -> None:
    """Learning rate and rule make four settings, and top_k makes two places."""
    axes = {
        "train.learning_rate": [0.0003, 0.006],
        "model.top_k": [1, 2],
        "balancer": [{"kind": "none"}, {"kind": "sign", "step_size": 0.01}],
        "train.seed": [0, 1],
    }
    spec = sweep(axes)
    trials = [
        row(trial, 3.0 + 0.1 * at, stage=Stage.TUNE) for at, trial in enumerate(spec.expand())
    ]
    answer = answer_of(trials, spec)
    assert [place.place for place in answer.places] == [
        "16 experts, top_k=1",
        "16 experts, top_k=2",
    ]
    for place in answer.places:
        assert [setting.seeds for setting in place.settings] == [2] * 4
        assert {setting.label for setting in place.settings} == {
            f"{rule} learning_rate={rate}"
            for rule in ("none", "sign 0.01")
            for rate in (3e-4, 6e-3)
        }
    assert len({answer.axes.name(trial) for trial in trials}) == len(trials) == 16


def test_each_expert_count_has_its_own_answer(make: Make) -> None:
    few = make([3.0, 3.0, 3.0], [4.0, 0.5, 0.2], experts=16)
    many = make([3.0, 3.0, 3.2], [4.0, 0.5, 0.2], experts=32)
    answer = answer_of([*few, *many], sweep({"model.num_experts": [16, 32], "balancer": RULES}))
    named = {setting.place: setting.label for setting in answer.named}
    assert named == {"16 experts": "quantile", "32 experts": "sign 0.01"}


def test_one_setting_for_all_passes_everywhere(make: Make) -> None:
    axes = {"model.num_experts": [16, 32], "balancer": RULES}
    few = make([3.0, 3.0, 3.0], [4.0, 0.5, 0.2], experts=16)
    many = make([3.0, 3.0, 3.2], [4.0, 0.5, 0.2], experts=32)
    asked = sweep(axes, answer={"one_for_all": True})
    answer = answer_of([*few, *many], asked)
    assert answer.for_all == "sign 0.01"
    assert "One setting for all: sign 0.01" in sentence(answer)
    none_good = make([3.0, 3.2, 3.0], [4.0, 0.5, 0.2], experts=32)
    answer = answer_of([*few[:0], *make([3.0, 3.0, 3.2], [4.0, 0.5, 0.2]), *none_good], asked)
    assert answer.for_all is None
    assert "No single setting is shown to be good" in sentence(answer)


def test_the_spec_says_per_what_an_answer_is_given(make: Make) -> None:
    axes = {"model.num_experts": [16, 32], "balancer": RULES}
    trials = [*make([3.0] * 3, [1.0] * 3), *make([3.0] * 3, [1.0] * 3, experts=32)]
    place = only(answer_of(trials, sweep(axes, answer={"per": []})))
    assert place.place == "all trials"
    assert "sign 0.01 num_experts=32" in verdicts(place)


def test_a_nan_loss_leaves_its_setting_out_and_only_that(make: Make) -> None:
    trials = make([3.0, 3.0, 3.0], [4.0, 0.5, 0.2])
    trials[1] = replace(trials[1], result=trials[1].result | {"val_bits_per_byte": math.nan})
    place = only(answer_of(trials, sweep()))
    assert place.left_out == {"sign 0.01": "no finite loss or MaxVio in 1 of 6 trials"}
    assert verdicts(place)["quantile"] is Verdict.NAMED
    assert "Left out: sign 0.01: no finite loss" in place_note(place)


def test_the_note_says_what_the_seeds_can_show(make: Make) -> None:
    place = only(answer_of(make([3.0, 3.0, 3.0], [4.0, 0.5, 0.2]), sweep()))
    assert f"A difference of {place.detectable:.3f} in loss would be found" in place_note(place)
    noisy = place._replace(detectable=0.05, seeds_for_small=None)
    assert "one of 0.01 would need more than 200 seeds" in place_note(noisy)
    assert "found" not in place_note(place._replace(detectable=math.inf))


def test_a_failed_trial_is_a_hole(make: Make) -> None:
    trials = make([3.0, 3.0, 3.0], [4.0, 0.5, 0.2])
    trials[1] = replace(trials[1], state=TrialState.FAILED, result={})
    place = only(answer_of(trials, sweep()))
    assert {s.label: s.seeds for s in place.settings} == {"none": 6, "sign 0.01": 5, "quantile": 6}
    assert place.named is not None


def test_stopped_trials_are_named_and_their_setting_is_left_out(make: Make) -> None:
    trials = make([3.0, 3.0, 3.0], [4.0, 0.5, 0.2])
    trials[1] = replace(
        trials[1],
        state=TrialState.STOPPED,
        stop_reason="asha: too bad",
        progress=Progress(3, 4, 192, 1.0, 3.0, 0.1),
    )
    answer = answer_of(trials, sweep())
    assert "sign 0.01" in only(answer).left_out
    (stopped,) = answer.stopped
    assert stopped.name == "sign 0.01, 16 experts, seed 0"
    assert (stopped.step, stopped.steps, stopped.reason) == (3, 4, "asha: too bad")


def test_settings_that_break_a_constraint_are_not_named(make: Make) -> None:
    trials = make([3.0, 3.0, 3.0], [4.0, 0.5, 0.2])
    tight = sweep(objective={"constraints": {"max_vio": 0.3}})
    assert verdicts(only(answer_of(trials, tight)))["sign 0.01"] is Verdict.VIOLATES
    tighter = answer_of(trials, sweep(objective={"constraints": {"max_vio": 0.05}}))
    assert not tighter.named
    assert "every setting breaks a constraint; the most even one is quantile" in sentence(tighter)


def test_the_margin_comes_from_the_sweep(make: Make) -> None:
    trials = make([3.0, 3.0, 3.015], [4.0, 0.5, 0.1])
    assert verdicts(only(answer_of(trials, sweep())))["quantile"] is Verdict.NAMED
    strict = sweep(objective={"loss_tolerance": 0.002})
    assert verdicts(only(answer_of(trials, strict)))["quantile"] is Verdict.OUT


def test_a_single_setting_or_only_controls_claim_nothing(make: Make) -> None:
    trials = make([3.0, 3.0, 3.0], [4.0, 0.5, 0.2])
    plain = answer_of([trial for trial in trials if trial.label == "none"])
    assert not plain.named
    assert "needs two settings with figures" in sentence(plain)
    assert "no trial to compare" in sentence(answer_of([]))


CONFIRM = {"top": 1, "seeds": [7, 8, 9, 10, 11, 12]}


def test_the_confirm_stage_counts_and_the_search_claims_nothing(make: Make) -> None:
    spec = sweep(confirm=CONFIRM)
    tuned = make([3.0, 2.9, 3.1], [4.0, 0.1, 0.3], seeds=(0,))
    before = answer_of(tuned, spec)
    assert (before.stage, before.is_provisional, before.named) == (Stage.TUNE, True, [])
    assert "confirm stage with fresh seeds is still to come" in sentence(before)
    fresh = make([3.0, 3.0, 3.1], [4.0, 0.2, 0.3], seeds=CONFIRM["seeds"], stage=Stage.CONFIRM)
    kept = [trial for trial in fresh if trial.label != "quantile"]
    after = answer_of([*tuned, *kept], spec)
    assert (after.stage, after.is_confirmed, after.is_provisional) == (Stage.CONFIRM, True, False)
    assert [setting.label for setting in after.named] == ["sign 0.01"]
    assert {setting.label for setting in after.tuned} == {"none", "sign 0.01", "quantile"}
    assert "the best of the 2 confirmed settings" in sentence(after)


@pytest.mark.parametrize(("lost", "count"), [(3.1, 0), (2.9, 1)])
def test_settings_set_aside_that_may_be_better_are_counted(
    make: Make, lost: float, count: int
) -> None:
    spec = sweep(confirm=CONFIRM)
    tuned = make([3.0, 3.0, lost], [4.0, 0.2, 0.3], seeds=(0,))
    fresh = make([3.0, 3.0, 3.0], [4.0, 0.2, 0.3], seeds=CONFIRM["seeds"], stage=Stage.CONFIRM)
    kept = [trial for trial in fresh if trial.label != "quantile"]
    answer = answer_of([*tuned, *kept], spec)
    assert only(answer).better_set_aside == count
    assert f"{count or 'None'} of the settings that were not confirmed may" in sentence(answer)


def test_a_look_after_an_extension_has_less_alpha(make: Make) -> None:
    trials = make([3.0, 3.0, 3.0], [4.0, 0.5, 0.2])
    first = answer_of(trials, sweep({"balancer": RULES, "train.seed": [0, 1]}))
    spec = sweep({"balancer": RULES, "train.seed": [0, 1]}, extended=[{"seeds": 4}])
    second = answer_of(trials, spec)
    assert (first.terms.alpha, second.terms.look, second.terms.alpha) == (0.025, 2, 0.0125)
    assert not second.is_provisional
    assert only(second).named is not None
    assert only(second).named.above_best > only(first).named.above_best  # type: ignore[union-attr]
    waiting = answer_of([trial for trial in trials if trial.spec["train"]["seed"] < 3], spec)
    assert waiting.is_provisional


def test_targets_are_of_the_stage_that_counts(make: Make) -> None:
    tuned = make([3.0, 2.9, 3.1], [4.0, 0.1, 0.3], seeds=(0,))
    fresh = make([3.0, 3.0, 3.1], [4.0, 0.2, 0.3], seeds=(7, 8, 9), stage=Stage.CONFIRM)
    rows = [*tuned, *fresh]
    curves = {r.digest: [CurvePoint(4, 256, 1.0, r.result["val_bits_per_byte"], 0.1)] for r in rows}
    found = answer_of(rows, sweep(confirm=CONFIRM), curves)
    assert {(row.label, row.place, row.trials) for row in found.targets} == {
        (label, "16 experts", 3) for label in ("none", "sign 0.01", "quantile")
    }


def test_every_figure_of_a_claim_is_in_the_table(make: Make) -> None:
    answer = answer_of(make([3.0, 2.999, 3.001], [4.0, 0.5, 0.2]), sweep())
    place = only(answer)
    named, control = place.named, place.control
    assert named is not None
    assert control is not None
    text = sentence(answer)
    for figure in (
        f"loss of {named.mean_loss:.3f} bits",
        f"margin of {place.margin:.3f} (1 %)",
        f"at most {named.above_best:.3f}; 6 seeds",
        f"{named.max_vio:.2f}, {named.over_floor:.1f} times its floor of 0.10",
        f"MaxVio is {control.max_vio:.2f} at {control.mean_loss:.3f} bits",
    ):
        assert figure in text


def test_seeds_in_sentences_are_those_of_the_row(make: Make) -> None:
    """Another setting lacks a seed, for failure or because it still runs."""
    rows = make([3.0, 3.0, 3.05], [4.0, 0.3, 0.1])
    rows[-1] = replace(rows[-1], state=TrialState.FAILED, result={})
    claimed = answer_of(rows, sweep())
    assert only(claimed).named is not None
    assert "; 6 seeds)" in sentence(claimed)
    assert "5 to 6 seeds." in place_note(only(claimed))
    rows[-1] = replace(rows[-1], state=TrialState.TRAINING)
    assert "bits per byte (6 seeds)." in sentence(answer_of(rows, sweep()))


def test_settings_without_common_seeds_are_not_said_to_have_one_seed(make: Make) -> None:
    rows = [
        trial
        for trial in make([3.0, 3.0, 3.0], [4.0, 0.3, 0.1], seeds=range(4))
        if (trial.label == "none") == (trial.spec["train"]["seed"] < 2)
        and trial.label != "quantile"
    ]
    text = sentence(answer_of(rows, sweep()))
    assert "settings share too few seeds to show how far losses are chance" in text
