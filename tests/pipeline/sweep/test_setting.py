from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.axes import axes_of
from evenload.pipeline.sweep.setting import grouped, setting_of, why_left_out

Row = Callable[..., TrialRecord]
BASE: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign"},
}


def trial(kind: str, seed: int = 0, experts: int = 16, rate: float = 0.003) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "model": {"preset": "tiny", "num_experts": experts},
            "train": BASE["train"] | {"seed": seed, "learning_rate": rate},
            "balancer": {"kind": kind},
        }
    )


def test_figures_have_intervals_over_seeds(row: Row) -> None:
    """The losses are 3.03, 3.04 and 3.05, so s = 0.01; t(2) = 4.303."""
    rows = [row(trial("quantile", seed), 3.02 + 0.01 * seed, 0.2 * seed) for seed in (1, 2, 3)]
    found = setting_of("quantile", "16 experts", rows)
    assert found.loss.mean == pytest.approx(3.04)
    assert found.loss.half == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-3)
    assert found.seeds == found.loss.seeds == 3
    assert found.over_floor == pytest.approx((2 * 4 * 6) ** (1 / 3))  # the floor is 0.1


def test_expert_counts_are_places_and_rates_are_settings(row: Row) -> None:
    rows = [
        row(trial("sign", seed, experts, rate))
        for seed in (0, 1)
        for experts in (16, 32)
        for rate in (1e-3, 9e-3)
    ]
    axes = axes_of(rows)
    assert (axes.per, axes.chosen) == (("model.num_experts",), ("train.learning_rate",))
    found = grouped(rows, Stage.TUNE, axes)
    assert list(found) == ["16 experts", "32 experts"]
    assert {label: len(group) for label, group in found["16 experts"].items()} == {
        "sign 0.001 learning_rate=0.001": 2,
        "sign 0.001 learning_rate=0.009": 2,
    }


def test_labels_carry_no_axis_that_does_not_vary(row: Row) -> None:
    axes = axes_of([row(trial("sign")), row(trial("none"))])
    assert axes == ((), ())
    assert axes.name(row(trial("sign"))) == "sign 0.001, 16 experts, seed 0"


def test_values_that_go_together_are_named_once(row: Row) -> None:
    rows = [row(trial("sign", rate=rate)) for rate in (1e-3, 9e-3)]
    tied = [
        replace(r, spec=r.spec | {"train": r.spec["train"] | {"warmup_steps": n}})
        for n, r in enumerate(rows)
    ]
    assert axes_of(tied).chosen == ("train.learning_rate",)


def test_a_search_gives_answers_per_crossed_axis(row: Row) -> None:
    rows = [
        row(trial("sign", experts=experts, rate=r)) for experts in (16, 32) for r in (0.001, 0.01)
    ]
    axes = {"train.learning_rate": {"low": 0.001, "high": 0.01}, "model.num_experts": [16, 32]}
    crossed = SweepSpec(name="s", base=BASE, axes=axes, search={"kind": "tpe"})
    assert axes_of(rows, crossed).per == ("model.num_experts",)
    searched = SweepSpec(name="s", base=BASE, axes=axes, search={"kind": "tpe", "cross": []})
    found = axes_of(rows, searched)
    assert found.per == ()
    assert found.setting(rows[-1]) == "sign 0.001 learning_rate=0.01 num_experts=32"


def test_a_target_is_part_of_the_label(row: Row) -> None:
    plain = row(trial("sign"))
    aimed = replace(
        plain, spec=plain.spec | {"balancer": plain.spec["balancer"] | {"target": [1 / 16] * 16}}
    )
    axes = axes_of([plain, aimed])
    assert axes.setting(plain) != axes.setting(aimed)
    assert len(axes.setting(aimed)) < 60


def test_another_corpus_of_the_confirm_stage_is_no_axis(row: Row) -> None:
    tuned = row(trial("sign"), stage=Stage.TUNE)
    other = replace(tuned, spec=tuned.spec | {"data": {"kind": "files"}}, stage=Stage.CONFIRM)
    assert axes_of([tuned, other]) == ((), ())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"state": TrialState.FAILED}, ""),
        ({"state": TrialState.STOPPED}, "stopped early in 1 of 2 trials"),
        ({"result": {"max_vio": 1.0}}, "no finite loss or MaxVio in 1 of 2 trials"),
    ],
)
def test_a_setting_that_diverged_is_left_out_but_failures_are_holes(
    row: Row, changes: dict[str, Any], why: str
) -> None:
    assert why_left_out([row(trial("sign")), row(trial("sign", 1), **changes)]) == why


def test_a_setting_without_a_complete_trial_is_left_out(row: Row) -> None:
    waiting = row(trial("sign"), state=TrialState.QUEUED)
    assert why_left_out([waiting]) == "0 of 1 trials complete"


def test_constraints_are_bounds_on_means(row: Row) -> None:
    rows = [row(trial("sign", seed), 3.0, vio) for seed, vio in enumerate((0.1, 0.5))]
    assert setting_of("s", "p", rows, {"max_vio": 0.31}).violates == ()
    assert setting_of("s", "p", rows, {"max_vio": 0.2}).violates == ("max_vio 0.3 is above 0.2",)
    (unknown,) = setting_of("s", "p", rows, {"max_vio_global": 0.2}).violates
    assert unknown == "max_vio_global was not recorded, so it may be above 0.2"


def test_a_place_is_named_even_where_a_chosen_value_goes_with_it(row: Row) -> None:
    """Otherwise two models would share a place, and their losses would be compared."""
    axes = {"train.learning_rate": [0.001, 0.009], "model.top_k": [1, 2]}
    spec = SweepSpec(name="s", base=BASE, axes=axes)
    rows = [row(trial("sign", rate=rate)) for rate in (1e-3, 9e-3)]
    tied = [
        replace(r, spec=r.spec | {"model": r.spec["model"] | {"top_k": n}})
        for n, r in enumerate(rows, 1)
    ]
    assert axes_of(tied, spec) == ((), ("model.top_k",))
