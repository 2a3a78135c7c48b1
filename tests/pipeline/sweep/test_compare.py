from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.sweep.answer import answer_of
from evenload.pipeline.sweep.axes import seed_of
from evenload.pipeline.sweep.compare import Comparison, comparison, half_of_differences

Row = Callable[..., TrialRecord]
RULES: list[dict[str, Any]] = [
    {"kind": "none"},
    {"kind": "sign", "step_size": 0.01},
    {"kind": "quantile"},
]


def sweep(
    row: Row,
    shift: float = 0.0,
    seeds: Iterable[int] = range(6),
    rules: list[dict[str, Any]] = RULES,
    **train: Any,
) -> list[TrialRecord]:
    """Losses of 3 plus `shift`, a large level per seed and a little noise."""
    made = []
    for seed in seeds:
        for at, rule in enumerate(rules):
            spec = TrialSpec.model_validate(
                {
                    "model": {"preset": "tiny"},
                    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16, "seed": seed}
                    | train,
                    "balancer": rule,
                }
            )
            noise = 0.002 * math.sin(11 * seed + 5 * at + 1e4 * shift)
            made.append(
                row(spec, 3.0 + shift + 0.2 * math.sin(seed) + noise, 0.5 * math.exp(noise))
            )
    return made


def compared(trials: list[TrialRecord], others: list[TrialRecord]) -> Comparison:
    return comparison(
        answer_of(trials, sweep_id="a"), answer_of(others, sweep_id="b"), trials, others
    )


def test_pairs_by_seed_take_out_what_a_seed_does_to_both(row: Row) -> None:
    found = compared(sweep(row), sweep(row, 0.02, learning_rate=0.006))
    assert [one.label for one in found.common] != []
    assert all(one.is_paired and one.loss.seeds == 6 for one in found.common)
    for one in found.common:
        assert one.loss.half is not None
        assert one.loss.half < 0.01  # the level of a seed alone has .2
        assert one.loss.mean == pytest.approx(0.02, abs=one.loss.half)
        assert one.loss.mean == pytest.approx(one.second.mean_loss - one.first.mean_loss)
    assert found.differing == {"train.learning_rate": ("0.003", "0.006")}


def test_sweeps_without_common_seeds_are_not_paired(row: Row) -> None:
    found = compared(sweep(row), sweep(row, 0.02, seeds=range(10, 14), learning_rate=0.006))
    assert not any(one.is_paired for one in found.common)
    assert all(one.loss.half is not None and one.loss.half > 0.1 for one in found.common)
    assert {one.loss.seeds for one in found.common} == {4}


def test_one_seed_gives_no_interval(row: Row) -> None:
    found = compared(sweep(row, seeds=[0]), sweep(row, 0.02, seeds=[0], learning_rate=0.006))
    assert {one.loss.half for one in found.common} == {None}


def test_settings_and_trials_that_one_or_both_have_are_listed(row: Row) -> None:
    found = compared(
        sweep(row, rules=RULES[:2]), sweep(row, rules=[*RULES[1:], {"kind": "kalman"}])
    )
    assert found.repeated == ("sign 0.01, 16 experts",)
    assert found.only_first == ("none, 16 experts",)
    assert found.only_second == ("quantile, 16 experts", "kalman, 16 experts")
    assert found.common == ()


def test_an_axis_of_one_sweep_names_the_settings_of_both(row: Row) -> None:
    rates = [*sweep(row, 0.1, learning_rate=0.01), *sweep(row, 0.02, learning_rate=0.006)]
    found = compared(rates, sweep(row, 0.03, learning_rate=0.006, weight_decay=0.2))
    assert {one.label for one in found.common} == {
        "none learning_rate=0.006",
        "sign 0.01 learning_rate=0.006",
        "quantile learning_rate=0.006",
    }
    assert len(found.only_first) == 3
    assert found.differing == {"train.weight_decay": ("0.1", "0.2")}


def test_settings_that_dropped_out_of_a_race_do_not_take_seeds_from_the_others(row: Row) -> None:
    trials = [t for t in sweep(row) if t.label != "quantile" or seed_of(t) < 2]
    raced = answer_of(trials, sweep_id="a")
    place = raced.places[0]._replace(dropped={"quantile": "dropped in round 1: loss"})
    raced = raced._replace(places=(place,))
    others = sweep(row, 0.02, learning_rate=0.006)
    found = comparison(raced, answer_of(others, sweep_id="b"), trials, others)
    assert {one.loss.seeds for one in found.common} == {6}
    assert found.left_out == {"quantile, 16 experts in a": "dropped in round 1: loss"}


def test_a_setting_that_diverged_in_one_sweep_is_left_out_with_the_reason(row: Row) -> None:
    others = sweep(row, 0.02, learning_rate=0.006)
    others[1].result["val_bits_per_byte"] = math.nan
    found = compared(sweep(row), others)
    assert found.left_out == {"sign 0.01, 16 experts": "no finite loss or MaxVio in 1 of 6 trials"}


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("train", {"steps": 8}, "train.steps is 4 in a and 8 in b"),
        ("train", {"seq_len": 32}, "train.seq_len is 16 in a and 32 in b"),
        ("data", {"kind": "synthetic"}, "data.kind is python_stdlib in a and synthetic in b"),
        ("eval", {"tokens": 128}, "eval.tokens is 65536 in a and 128 in b"),
    ],
)
def test_losses_of_other_data_or_tokens_are_refused(
    row: Row, part: str, change: dict[str, Any], words: str
) -> None:
    others = sweep(row)
    for trial in others:
        assert isinstance(trial.spec, dict)
        trial.spec[part] = trial.spec[part] | change
    with pytest.raises(SpecError, match=words):
        compared(sweep(row), others)


def test_sweeps_without_a_common_setting_are_refused(row: Row) -> None:
    with pytest.raises(SpecError, match="no finished setting in common: one has none"):
        compared(sweep(row, rules=RULES[:1]), sweep(row, rules=RULES[1:]))


@pytest.mark.parametrize("shared", [0.0, 3.0])
@pytest.mark.parametrize("is_paired", [True, False])
def test_intervals_hold_together_in_95_percent_of_sweeps(shared: float, is_paired: bool) -> None:
    """Settings have noise 1 of their own, and `shared` in common at a seed."""
    rng = np.random.default_rng(0)
    held, sweeps = 0, 1500
    for _ in range(sweeps):
        samples = [
            rng.normal(size=(5, seeds)) + shared * rng.normal(size=seeds)
            for seeds in ((4,) if is_paired else (3, 6))
        ]
        half = half_of_differences(*samples)
        assert half is not None
        difference_S = samples[-1].mean(axis=1) - (0 if is_paired else samples[0].mean(axis=1))
        held += bool((abs(difference_S) <= half).all())
    assert held / sweeps >= 0.93
