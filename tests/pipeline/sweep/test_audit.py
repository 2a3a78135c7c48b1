"""Every check finds what was planted, says where, and is silent about a sound sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.sweep.answer import answer_of
from evenload.pipeline.sweep.audit import (
    CHECKS,
    OF_SWEEPS,
    Facts,
    Finding,
    audit,
    audit_trials,
    spikes,
)

Row = Callable[..., TrialRecord]
FLAT = np.full(200, 3.0)
STEP_SIZES = (0.001, 0.01, 0.1)


def spec_of(
    balancer: dict[str, Any], seed: int, train: dict[str, Any], model: dict[str, Any]
) -> TrialSpec:
    train = {"steps": 200, "batch_sequences": 4, "seq_len": 16, "seed": seed} | train
    return TrialSpec.model_validate(
        {"model": {"preset": "tiny"} | model, "train": train, "balancer": balancer}
    )


@pytest.fixture
def sound(row: Row) -> Callable[..., list[TrialRecord]]:
    """Three step sizes, the middle one best, and six seeds, without anything to find."""

    def make(
        losses: Sequence[float] = (2.9, 2.5, 2.8), seeds: int = 6, **more: Any
    ) -> list[TrialRecord]:
        model, train = more.get("model", {}), more.get("train", {})
        rng = np.random.default_rng(0)
        return [
            row(
                spec_of({"kind": "sign", "step_size": step}, seed, train, model),
                loss + 0.002 * rng.normal(),
                0.5,
            )
            for seed in range(seeds)
            for step, loss in zip(STEP_SIZES, losses, strict=True)
        ]

    return make


def facts(trials: Sequence[TrialRecord], **changes: Any) -> Facts:
    losses = {trial.digest: np.full(trial.spec["train"]["steps"], 3.0) for trial in trials}
    return Facts(answer_of(trials), trials, losses, {}, {})._replace(**changes)


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


def test_a_sound_sweep_has_no_finding(sound: Callable[..., list[TrialRecord]]) -> None:
    assert audit(facts(sound())) == []


def test_one_seed(sound: Callable[..., list[TrialRecord]]) -> None:
    found = only(audit(facts(sound(seeds=1))))
    assert found.name == "one seed"
    assert "one seed at 16 experts" in found.evidence
    assert found.remedy == "evenload sweep extend ID --seeds 4"


def test_losses_within_the_noise(sound: Callable[..., list[TrialRecord]]) -> None:
    found = audit(facts(sound(losses=(2.5002, 2.5, 2.5001))))
    assert found[0].name == "within seed noise"
    assert "the noise of a run is 0.00" in found[0].evidence


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ((2.5, 2.8, 2.9), ["step_size=0.001", "smallest of 3", "Add smaller"]),
        ((2.9, 2.8, 2.5), ["step_size=0.1", "largest of 3", "Add larger"]),
    ],
)
def test_the_best_at_an_edge(
    losses: tuple[float, ...], words: list[str], sound: Callable[..., list[TrialRecord]]
) -> None:
    found = only(audit(facts(sound(losses=losses))))
    assert found.name == "optimum at the edge"
    text = f"{found.evidence} {found.remedy}"
    assert [word for word in words if word not in text] == []


def test_axes_that_change_together(sound: Callable[..., list[TrialRecord]]) -> None:
    few = sound(model={"num_experts": 16, "d_expert": 64})
    many = sound(model={"num_experts": 32, "d_expert": 32})
    found = only(audit(facts([*few, *many])))
    assert found.name == "confounded axes"
    assert "model.num_experts" in found.evidence
    assert "model.d_expert" in found.evidence


def test_unequal_tokens(sound: Callable[..., list[TrialRecord]]) -> None:
    """Trials at one place with other budgets; here the answer has no place for the steps."""
    both = [*sound(), *sound(train={"steps": 400})]
    known = facts(both)
    axes = known.answer.axes._replace(chosen=("train.steps",), per=())
    found = audit(known._replace(answer=known.answer._replace(axes=axes)))
    assert [one.name for one in found] == ["unequal tokens"]
    assert "12,800 or 25,600 tokens" in found[0].evidence


def test_records_that_are_missing_or_cut(sound: Callable[..., list[TrialRecord]]) -> None:
    trials = sound()
    known = facts(trials)
    gone = {trials[0].digest: np.zeros(0), trials[1].digest: FLAT[:150]}
    found = only(audit(known._replace(losses={**known.losses, **gone})))
    assert found.name == "records missing"
    assert "2 trials" in found.evidence
    assert "150 of 200 steps" in found.evidence


def test_a_loss_that_still_falls(sound: Callable[..., list[TrialRecord]]) -> None:
    trials = sound()
    falling = {trial.digest: np.linspace(6, 2, 200) for trial in trials[:2]}
    known = facts(trials)
    found = only(audit(known._replace(losses={**known.losses, **falling})))
    assert found.name == "not converged"
    assert "2 trials" in found.evidence


def test_a_spike_is_named_with_trial_and_step(sound: Callable[..., list[TrialRecord]]) -> None:
    trials = sound()
    loss_S = FLAT + 0.01 * np.random.default_rng(0).normal(size=200)
    loss_S[119] = 6.0
    known = facts(trials)
    found = only(audit(known._replace(losses=known.losses | {trials[1].digest: loss_S})))
    assert found.name == "loss spikes"
    assert "sign 0.01" in found.evidence
    assert "at step 120" in found.evidence


def test_noise_and_a_falling_loss_are_no_spikes() -> None:
    rng = np.random.default_rng(1)
    assert spikes(3 + 0.3 * rng.normal(size=2000)) == []
    assert spikes(6 * np.exp(-np.arange(500) / 100) + 1) == []
    assert spikes(np.full(20, 3.0)) == []


def test_dead_experts_despite_a_low_max_vio(sound: Callable[..., list[TrialRecord]]) -> None:
    trials = sound()
    dead = replace(trials[4], result=trials[4].result | {"dead_tenth": 0.25})
    found = only(audit(facts([*trials[:4], dead, *trials[5:]])))
    assert found.name == "dead experts"
    assert "25.0%" in found.evidence
    uneven = replace(dead, result=dead.result | {"max_vio": 3.0})
    assert audit(facts([*trials[:4], uneven, *trials[5:]])) == []


def test_text_that_training_has_seen(sound: Callable[..., list[TrialRecord]]) -> None:
    for share, findings in ((0.004, 0), (0.2, 1)):
        trials = [replace(t, result=t.result | {"leaked_share": share}) for t in sound()]
        found = audit(facts(trials))
        assert [one.name for one in found] == ["held-out text seen in training"] * findings


def test_data_that_changed_since(sound: Callable[..., list[TrialRecord]]) -> None:
    trials = sound()
    before = {trial.digest: "old" for trial in trials}
    now = before | {trials[0].digest: "new"}
    assert audit(facts(trials, corpora=before, corpora_now=before)) == []
    found = only(audit(facts(trials, corpora=before, corpora_now=now)))
    assert found.name == "corpus changed since"
    assert "1 trial" in found.evidence


def test_of_some_trials_only_what_concerns_them_is_found(
    sound: Callable[..., list[TrialRecord]],
) -> None:
    """One seed at one step size: what the others would tell is not asked."""
    known = facts(sound(seeds=1))
    dead = replace(known.trials[0], result=known.trials[0].result | {"dead_tenth": 0.2})
    assert [finding.name for finding in audit_trials(known._replace(trials=[dead]))] == [
        "dead experts"
    ]
    assert audit_trials(known._replace(trials=known.trials[1:2])) == []


def test_every_check_has_a_test() -> None:
    assert len(CHECKS) == 11
    assert set(OF_SWEEPS) < set(CHECKS)


def test_no_trial_is_no_finding() -> None:
    assert audit(facts([])) == []
