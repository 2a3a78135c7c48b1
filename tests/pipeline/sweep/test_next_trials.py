from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.next_trials import Growth, most_to_come, next_trials
from evenload.pipeline.sweep.search import propose

Row = Callable[..., TrialRecord]
BASE = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign"},
}
RULES = [
    {"kind": "none"},
    {"kind": "sign", "step_size": 0.001},
    {"kind": "sign", "step_size": 0.01},
    {"kind": "proportional"},
    {"kind": "quantile"},
]
LOSS = {
    "none": 2.9,
    "sign 0.001": 3.0,
    "sign 0.01": 3.01,
    "sign 0.02": 3.0,
    "proportional 0.01": 3.2,
    "quantile": 3,
}
VIO = {
    "sign 0.02": 0.3,
    "none": 4.0,
    "sign 0.001": 0.9,
    "sign 0.01": 0.2,
    "proportional 0.01": 0.1,
    "quantile": 0.5,
}


def sweep(**more: Any) -> SweepSpec:
    given: dict[str, Any] = {
        "axes": {"model.num_experts": [16, 32], "balancer": RULES},
        "confirm": {"top": 2, "seeds": [10, 11]},
    }
    return SweepSpec(name="s", base=BASE, **given | more)


@pytest.fixture
def tuned(row: Row) -> Callable[[SweepSpec], list[TrialRecord]]:
    """Makes the rows of a finished tune stage."""
    return lambda spec: [
        row(trial, LOSS[trial.balancer.label], VIO[trial.balancer.label], stage=Stage.TUNE)
        for trial in propose(spec)
    ]


def labels(growth: Growth) -> list[tuple[str, int, int]]:
    return [(t.balancer.label, t.model.num_experts, t.train.seed) for t in growth.trials]


Tuned = Callable[[SweepSpec], list[TrialRecord]]


def test_the_best_settings_and_the_control_are_trained_again_with_fresh_seeds(tuned: Tuned) -> None:
    """`proportional` is the most even rule, but its loss is not within 1 % of the least one."""
    growth = next_trials(sweep(), tuned(sweep()), room=1)
    assert growth.stage is Stage.CONFIRM
    assert labels(growth) == [
        (label, experts, seed)
        for seed in (10, 11)
        for experts in (16, 32)
        for label in ("sign 0.01", "quantile", "none")
    ]


def test_each_expert_count_has_its_own_settings_confirmed(tuned: Tuned) -> None:
    rows = [
        replace(row, result=row.result | {"val_bits_per_byte": 3.5})
        if (row.label, row.spec["model"]["num_experts"]) == ("quantile", 32)
        else row
        for row in tuned(sweep())
    ]
    chosen = {(label, experts) for label, experts, _ in labels(next_trials(sweep(), rows, 1))}
    assert chosen == {
        *((label, 16) for label in ("sign 0.01", "quantile", "none")),
        *((label, 32) for label in ("sign 0.01", "sign 0.001", "none")),
    }


def test_an_extension_trains_every_setting_with_seeds_that_follow(tuned: Tuned, row: Row) -> None:
    spec = sweep(confirm=None, extended=[{"seeds": 2}, {"seeds": 1}])
    rows = tuned(spec)
    for seeds in ((1, 2), (3,)):
        growth = next_trials(spec, rows, room=1)
        assert growth.stage is Stage.TUNE
        assert sorted(labels(growth)) == sorted(
            (label, experts, seed)
            for label in set(LOSS) - {"sign 0.02"}
            for experts in (16, 32)
            for seed in seeds
        )
        added = [row(trial, stage=Stage.TUNE) for trial in growth.trials]
        assert next_trials(spec, [*rows, *added[:-1]], room=9).trials == growth.trials[-1:]
        rows += added
    assert next_trials(spec, rows, room=9).trials == []


def test_an_extension_with_top_confirms_the_best_settings(tuned: Tuned, row: Row) -> None:
    spec = sweep(confirm=None, extended=[{"seeds": 2, "top": 1}])
    rows = tuned(spec)
    growth = next_trials(spec, rows, room=1)
    assert growth.stage is Stage.CONFIRM
    assert labels(growth) == [
        (label, experts, seed)
        for seed in (1, 2)
        for experts in (16, 32)
        for label in ("sign 0.01", "none")
    ]
    rows += [row(trial, stage=Stage.CONFIRM) for trial in growth.trials]
    assert next_trials(spec, rows, room=9).trials == []
    more = sweep(confirm=None, extended=[{"seeds": 2, "top": 1}, {"seeds": 1}])
    further = next_trials(more, rows, room=9)
    assert (further.stage, {seed for *_, seed in labels(further)}) == (Stage.CONFIRM, {3})
    assert len(further.trials) == 4


def test_an_extension_of_a_confirmed_sweep_adds_seeds_to_the_confirm_stage(
    tuned: Tuned, row: Row
) -> None:
    rows = tuned(sweep())
    rows += [row(trial, stage=Stage.CONFIRM) for trial in next_trials(sweep(), rows, 1).trials]
    growth = next_trials(sweep(extended=[{"seeds": 1}]), rows, room=1)
    assert growth.stage is Stage.CONFIRM
    assert {seed for *_, seed in labels(growth)} == {12}
    assert len(growth.trials) == 6


def test_an_extension_keeps_the_id_and_an_answer_section_does_not(tuned: Tuned) -> None:
    assert sweep(extended=[{"seeds": 4}]).sweep_id() == sweep().sweep_id()
    assert sweep(answer={"one_for_all": True}).sweep_id() != sweep().sweep_id()


def test_the_confirm_stage_waits_for_the_tune_stage(tuned: Tuned) -> None:
    rows = tuned(sweep())
    rows[-1] = replace(rows[-1], state=TrialState.EVALUATING)
    assert next_trials(sweep(), rows, room=9).trials == []


def test_failed_and_stopped_settings_are_not_confirmed(tuned: Tuned) -> None:
    rows = [
        replace(row, state=TrialState.STOPPED)
        if (row.label, row.spec["model"]["num_experts"]) == ("sign 0.01", 32)
        else row
        for row in tuned(sweep())
    ]
    growth = labels(next_trials(sweep(), rows, room=1))
    assert {label for label, at, _ in growth if at == 32} == {"quantile", "sign 0.001", "none"}
    assert {label for label, at, _ in growth if at == 16} == {"quantile", "sign 0.01", "none"}


def test_a_setting_that_breaks_a_constraint_is_confirmed_last(tuned: Tuned) -> None:
    spec = sweep(objective={"constraints": {"max_vio": 0.15}})
    growth = next_trials(spec, tuned(spec), room=1)
    assert labels(growth)[0][0] == "proportional 0.01"
    assert labels(growth)[1][0] == "sign 0.01"  # the most even of those that break the constraint


def test_at_most_per_rule_settings_of_a_rule_are_confirmed(tuned: Tuned) -> None:
    axes = {"balancer": [*RULES, {"kind": "sign", "step_size": 0.02}]}
    spec = sweep(axes=axes, confirm={"top": 2, "per_rule": 1, "seeds": [7]})
    assert [label for label, _, _ in labels(next_trials(spec, tuned(spec), room=1))] == [
        "sign 0.01",
        "quantile",
        "none",
    ]


def test_the_number_of_trials_to_come_is_known_in_advance(tuned: Tuned) -> None:
    """The stage confirms two settings and the control, at two expert counts with two seeds."""
    assert most_to_come(sweep()) == {Stage.TUNE: 0, Stage.CONFIRM: 12}
    assert len(next_trials(sweep(), tuned(sweep()), room=1).trials) == 12
    axes = {"model.num_experts": [16, 32], "balancer.step_size": {"low": 0.001, "high": 0.1}}
    spec = sweep(axes=axes, search={"kind": "tpe", "startup": 3, "settings": 8}, confirm=None)
    assert most_to_come(spec) == {Stage.TUNE: 2 * (8 - 3), Stage.CONFIRM: 0}


def test_confirm_trials_are_added_once(tuned: Tuned, row: Row) -> None:
    rows = tuned(sweep())
    added = [row(trial, stage=Stage.CONFIRM) for trial in next_trials(sweep(), rows, 1).trials]
    assert next_trials(sweep(), [*rows, *added], room=9).trials == []
    assert next_trials(sweep(), [*rows, *added[:-1]], room=9).trials == [
        *next_trials(sweep(), rows, 1).trials[-1:]
    ]


def test_the_confirm_stage_may_use_another_corpus(tuned: Tuned) -> None:
    other = {"kind": "synthetic", "vocab_size": 64}
    spec = sweep(confirm={"top": 1, "seeds": [5], "data": other})
    growth = next_trials(spec, tuned(spec), room=1)
    assert {trial.data.kind for trial in growth.trials} == {"synthetic"}


def test_without_a_complete_setting_nothing_is_confirmed(tuned: Tuned) -> None:
    rows = [replace(row, state=TrialState.FAILED) for row in tuned(sweep())]
    assert next_trials(sweep(), rows, room=1).trials == []


def test_a_sweep_without_confirm_stage_ends(tuned: Tuned) -> None:
    spec = sweep(confirm=None)
    assert next_trials(spec, tuned(spec), room=9).trials == []


def test_the_search_ends_before_confirmation_begins(row: Row) -> None:
    axes = {"balancer.step_size": {"low": 0.001, "high": 0.1, "log": True}}
    spec = sweep(axes=axes, search={"kind": "tpe", "startup": 2, "settings": 4})
    rows = [row(trial) for trial in propose(spec)]
    assert next_trials(spec, rows, room=0).trials == []
    further = next_trials(spec, rows, room=9)
    assert (further.stage, len(further.trials)) == (Stage.TUNE, 2)
    rows += [row(trial) for trial in further.trials]
    assert next_trials(spec, rows, room=9).stage is Stage.CONFIRM


@pytest.mark.parametrize(
    ("confirm", "message"),
    [
        ({"seeds": [0, 1]}, "holds 0, a seed of the tune stage"),
        ({"seeds": [4, 4]}, "names a seed twice"),
        ({"seeds": []}, "at least 1"),
        ({"seeds": [1], "top": 0}, "greater than 0"),
        ({"seeds": [1], "data": {"kind": "synthetic", "vocab_size": 999}}, "smaller than the"),
    ],
)
def test_an_invalid_confirm_stage_is_refused(confirm: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        sweep(confirm=confirm)
