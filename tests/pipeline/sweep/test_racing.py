from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.answer import Answer, answer_of
from evenload.pipeline.sweep.answer_text import method, place_note, sentence
from evenload.pipeline.sweep.axes import seed_of, stage_of
from evenload.pipeline.sweep.next_trials import most_to_come, next_trials
from evenload.pipeline.sweep.search import propose
from evenload.pipeline.sweep.selection import alpha_of_look
from evenload.pipeline.sweep.setting import Verdict

Row = Callable[..., TrialRecord]
BASE: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign"},
}
RULES = [
    {"kind": "none"},
    {"kind": "sign", "step_size": 0.001},
    {"kind": "sign", "step_size": 0.01},
    {"kind": "aux_loss"},
    {"kind": "quantile"},
]
VIO = {"none": 4.0, "sign 0.001": 0.9, "sign 0.01": 0.3, "aux_loss 0.01": 0.1, "quantile": 0.31}
LOSS = {"none": 3.0, "sign 0.001": 3.0, "sign 0.01": 3.0, "aux_loss 0.01": 3.2, "quantile": 3.01}


def sweep(**more: Any) -> SweepSpec:
    given: dict[str, Any] = {
        "base": BASE,
        "axes": {"balancer": RULES},
        "search": {"kind": "racing", "block": 3, "rounds": 4},
    }
    return SweepSpec(name="s", **given | more)


class Sweep:
    """A sweep in memory. Every round adds what is due, and ends it."""

    def __init__(self, spec: SweepSpec, row: Row, noise: float = 0.03, **losses: float) -> None:
        self.spec, self.noise, self.losses, self._row = spec, noise, LOSS | losses, row
        self.rows = [self.ended(trial, Stage.TUNE) for trial in propose(spec)]

    def ended(self, trial: Any, stage: Stage) -> TrialRecord:
        label, seed = trial.balancer.label, trial.train.seed
        wave = np.random.default_rng([seed, list(LOSS).index(label)]).normal()
        return self._row(
            trial,
            self.losses[label] + 0.1 * math.sin(seed) + self.noise * wave,
            VIO[label] * math.exp(0.1 * wave),
            stage=stage,
        )

    def grow(self) -> list[tuple[str, int]]:
        """Adds the trials that are due and ends them."""
        growth = next_trials(self.spec, self.rows, room=1)
        self.rows += [self.ended(trial, growth.stage) for trial in growth.trials]
        return [(trial.balancer.label, trial.train.seed) for trial in growth.trials]

    def run(self) -> None:
        while self.grow():
            pass

    @property
    def answer(self) -> Answer:
        return answer_of(self.rows, self.spec)

    def seeds(self, label: str, stage: Stage = Stage.TUNE) -> list[int]:
        return [seed_of(t) for t in self.rows if t.label == label and stage_of(t) is stage]


def test_the_first_round_trains_every_setting_with_one_block() -> None:
    trials = propose(sweep())
    assert len(trials) == 15
    assert [trial.train.seed for trial in trials] == [0] * 5 + [1] * 5 + [2] * 5
    assert most_to_come(sweep())[Stage.TUNE] == 45
    shifted = sweep(base=BASE | {"train": BASE["train"] | {"seed": 7}})
    assert {trial.train.seed for trial in propose(shifted)} == {7, 8, 9}


def test_a_setting_that_is_shown_to_be_out_gets_no_more_seeds(row: Row) -> None:
    """aux_loss is the most even, but it costs 6 % of the loss."""
    race = Sweep(sweep(), row)
    assert race.answer.is_race_on
    assert race.grow() == [
        (label, seed)
        for seed in (3, 4, 5)
        for label in ("none", "sign 0.001", "sign 0.01", "quantile")
    ]
    race.run()
    assert race.seeds("aux_loss 0.01") == [0, 1, 2]
    (place,) = race.answer.places
    assert place.dropped["aux_loss 0.01"].startswith(
        "dropped in round 1: loss above the least one by at least 0."
    )
    assert place.having(Verdict.DROPPED)[0].label == "aux_loss 0.01"
    assert "aux_loss 0.01: dropped in round 1" in place_note(place)


def test_the_race_ends_in_a_claim_among_those_that_remain(row: Row) -> None:
    race = Sweep(sweep(), row)
    race.run()
    answer = race.answer
    assert not answer.is_provisional
    assert [setting.label for setting in answer.named] == ["sign 0.01"]
    assert answer.terms.alpha == alpha_of_look(1) / 4
    text = sentence(answer)
    assert "the best of the 4 settings that remain of 5 in the race" in text
    assert f"; {answer.places[0].seeds} seeds)" in text
    assert "whose alpha 4 rounds share" in method(answer)


def test_the_race_ends_as_soon_as_more_seeds_cannot_change_what_is_named(row: Row) -> None:
    race = Sweep(sweep(), row, noise=0.001, **{"sign 0.001": 3.03})
    race.grow()
    assert len(race.rows) == 15
    assert [setting.label for setting in race.answer.named] == ["sign 0.01"]
    assert not race.answer.is_race_on


def test_without_a_claim_it_ends_after_the_planned_rounds(row: Row) -> None:
    race = Sweep(sweep(), row, noise=0.3)
    race.run()
    assert race.seeds("quantile") == list(range(12))
    assert not race.answer.named
    assert "no claim about loss" in sentence(race.answer)


def test_places_race_by_themselves(row: Row) -> None:
    race = Sweep(sweep(axes={"model.num_experts": [16, 32], "balancer": RULES}), row)
    race.rows = [t for t in race.rows if t.spec["model"]["num_experts"] == 16]
    race.run()
    full = Sweep(sweep(axes={"model.num_experts": [16, 32], "balancer": RULES}), row)
    full.run()
    assert race.answer.places[0].dropped == full.answer.places[0].dropped
    assert {place.place for place in full.answer.places} == {"16 experts", "32 experts"}


def test_nothing_is_decided_while_trials_of_the_round_run(row: Row) -> None:
    race = Sweep(sweep(), row)
    race.rows[4] = replace(race.rows[4], state=TrialState.TRAINING)
    assert race.grow() == []
    assert race.answer.is_provisional
    assert "the race goes on" in sentence(race.answer)
    assert not race.answer.places[0].dropped


def test_a_race_goes_on_where_it_was_killed(row: Row) -> None:
    """The decisions are the same, whether half of a round's trials are listed or none."""
    whole, killed = Sweep(sweep(), row), Sweep(sweep(), row)
    whole.grow()
    killed.grow()
    killed.rows = killed.rows[:18]
    killed.grow()
    assert [(t.label, seed_of(t)) for t in killed.rows] == [
        (t.label, seed_of(t)) for t in whole.rows
    ]


def test_failed_trials_are_holes_and_diverged_settings_drop_out(row: Row) -> None:
    race = Sweep(sweep(), row, noise=0.015)
    race.rows[2] = replace(race.rows[2], state=TrialState.FAILED, result={})
    diverged = race.rows[4]
    race.rows[4] = replace(diverged, result=dict(diverged.result) | {"val_bits_per_byte": math.nan})
    race.rows[6] = replace(race.rows[6], state=TrialState.STOPPED, result={})
    race.run()
    (place,) = race.answer.places
    assert place.dropped["quantile"] == (
        "dropped in round 1: no finite loss or MaxVio in 1 of 3 trials"
    )
    assert place.dropped["sign 0.001"] == "dropped in round 1: stopped early in 1 of 3 trials"
    assert place.named is not None
    assert place.named.label == "sign 0.01"
    assert place.named.seeds == place.seeds == len(race.seeds("none")) - 1


def test_a_failed_trial_that_is_retried_reopens_its_round(row: Row) -> None:
    race = Sweep(sweep(), row)
    race.rows[3] = replace(race.rows[3], state=TrialState.FAILED, result={})
    race.grow()
    before = len(race.rows)
    race.rows[3] = replace(race.rows[3], state=TrialState.QUEUED)
    assert race.grow() == []
    assert race.answer.is_provisional
    assert len(race.rows) == before


def test_confirming_and_extending_leave_out_what_was_dropped(row: Row) -> None:
    race = Sweep(sweep(confirm={"top": 9, "seeds": [50, 51, 52, 53]}), row)
    race.run()
    assert race.seeds("aux_loss 0.01", Stage.CONFIRM) == []
    assert race.seeds("sign 0.01", Stage.CONFIRM) == [50, 51, 52, 53]
    assert race.answer.is_confirmed
    assert race.answer.terms.rounds == 1
    spec = sweep(extended=[{"seeds": 2}])
    longer = Sweep(spec, row, noise=0.3)
    longer.run()
    assert longer.seeds("quantile") == list(range(14))
    assert longer.answer.terms.alpha == alpha_of_look(2)
    short = Sweep(spec, row)
    short.run()
    assert short.seeds("aux_loss 0.01") == [0, 1, 2]
    assert short.seeds("sign 0.01")[-2:] == [12, 13]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"axes": {"train.seed": [0, 1], "balancer": RULES}}, "a race adds seeds by itself"),
        (
            {"axes": {"balancer.step_size": {"low": 0.1, "high": 0.2}}},
            "a race takes values",
        ),
        ({"confirm": {"seeds": [11]}}, "confirm.seeds holds 11, a seed of the tune stage"),
        ({"search": {"kind": "racing", "rounds": 1}}, "greater than or equal to 2"),
        ({"search": {"kind": "racing", "block": 10**9}}, "a sweep lists at most"),
    ],
)
def test_specs_that_cannot_race_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        sweep(**change)
