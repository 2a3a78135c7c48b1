from __future__ import annotations

from dataclasses import replace
from typing import Any

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import TrialRecord, TrialState
from evenload.pipeline.sweep.recommend import ranking, recommend
from tests.pipeline.sweep.trial_records import completed_trial

BASE: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign"},
}


def trial(
    label: str, experts: int, loss: float, max_vio: float, state: TrialState = TrialState.COMPLETED
) -> TrialRecord:
    spec = {
        "balancer": {"kind": label.split()[0]},
        "model": {"num_experts": experts},
        "train": {"seed": 0},
    }
    return completed_trial(f"{label}-{experts}", label, spec, loss, max_vio, state=state)


NONE = [trial("none", experts, 2.50, 3.0) for experts in (16, 32)]
EVEN = [trial("sign 0.01", experts, 2.51, 0.2) for experts in (16, 32)]
WORSE_AND_UNEVEN = [trial("sign 0.001", experts, 2.505, 1.5) for experts in (16, 32)]
CHEAP = [trial("sign 0.5", experts, 2.0, 0.3) for experts in (16, 32)]
EVENEST_BUT_WORSE = [trial("sign 0.1", experts, 2.60, 0.1) for experts in (16, 32)]


def test_the_most_even_setting_that_costs_no_loss_wins() -> None:
    answer = recommend([*NONE, *EVEN, *EVENEST_BUT_WORSE])
    assert answer.best is not None
    assert answer.best.label == "sign 0.01"
    assert "Take sign 0.01: MaxVio 0.20" in answer.sentence
    assert "without balancing MaxVio is 3.00" in answer.sentence
    assert "one seed" in answer.sentence


def test_yardsticks_never_win() -> None:
    assert recommend(NONE).best is None
    assert "2 of 2 trials are complete" in recommend(NONE).sentence


def test_a_setting_that_failed_somewhere_does_not_compete() -> None:
    broken = replace(EVEN[1], state=TrialState.FAILED)
    answer = recommend([*NONE, EVEN[0], broken, *EVENEST_BUT_WORSE])
    assert answer.best is not None
    assert answer.best.label == "sign 0.1"


def test_averages_run_over_the_expert_counts() -> None:
    trials = [trial("sign 0.01", 16, 2.4, 0.1), trial("sign 0.01", 32, 2.6, 0.3)]
    best = recommend([*NONE, *trials]).best
    assert best is not None
    assert (best.trials, best.bits_per_byte, best.max_vio) == (2, 2.5, 0.2)


def test_one_setting_alone_is_no_comparison() -> None:
    answer = recommend(EVEN)
    assert answer.best is None
    assert "A recommendation needs two settings" in answer.sentence


def test_a_setting_that_breaks_a_constraint_does_not_set_the_least_loss() -> None:
    """No legal setting is near its loss, but the most even legal one must still win."""
    illegal = [replace(each, result=each.result | {"idle_frac": 0.5}) for each in CHEAP]
    spec = SweepSpec(
        name="s",
        base=BASE,
        axes={"train.seed": [0]},
        objective={"constraints": {"idle_frac": 0.1}},
    )
    answer = recommend([*NONE, *EVEN, *WORSE_AND_UNEVEN, *illegal], spec)
    assert answer.best is not None
    assert answer.best.label == "sign 0.01"
    order = ranking(answer.settings, spec.objective)
    assert [setting.label for setting in order] == ["sign 0.01", "sign 0.001", "sign 0.5"]
    legal = recommend([*NONE, *EVEN, *WORSE_AND_UNEVEN, *CHEAP], spec).best
    assert legal is not None
    assert (legal.label, legal.violates) == ("sign 0.5", ())
