from __future__ import annotations

import math

import pytest

from evenload.pipeline.spec.sweep import Asha
from evenload.pipeline.states import CurvePoint
from evenload.pipeline.sweep.stopping.asha import rungs, stops
from evenload.pipeline.sweep.stopping.comparable_trials import TrialCurve

POLICY = Asha(first_rung=0.1, eta=3, slack=0.0)


def trial(digest: str, *losses: float, may_stop: bool = True) -> TrialCurve:
    """A trial of 100 steps with these losses at steps 10, 20, ..."""
    curve = tuple(CurvePoint(10 * n, 80 * n, 1.0, loss, 0.1) for n, loss in enumerate(losses, 1))
    return TrialCurve(digest, curve, 100, may_stop)


def first_rung(**losses: float) -> list[TrialCurve]:
    return [trial(digest, loss) for digest, loss in losses.items()]


def stopped(*trials: TrialCurve, policy: Asha = POLICY) -> list[str]:
    return [digest for digest, _ in stops(policy, trials)]


def test_rungs_are_a_factor_apart_and_before_the_end() -> None:
    assert rungs(POLICY, 100) == [10, 30, 90]
    assert rungs(Asha(), 8) == [2, 4]
    assert rungs(Asha(first_rung=0.01, eta=2), 10) == [1, 2, 4, 8]


def test_one_in_eta_continues() -> None:
    assert stopped(*first_rung(a=3, b=1, c=2, d=6, e=5, f=4)) == ["a", "d", "e", "f"]


def test_no_trial_is_stopped_before_its_rank_is_certain() -> None:
    """Two of six trials continue. The second one so far may still be one of them, the third not."""
    to_come = [trial(name) for name in "def"]
    assert stopped(*first_rung(a=1, b=9), trial("c"), *to_come) == []
    assert stopped(*first_rung(a=1, b=9, c=5), *to_come) == ["b"]


def test_a_trial_that_is_ahead_is_ranked_at_every_earlier_rung() -> None:
    """`a` was alone at step 10 and continued; by now three trials were better there."""
    ahead = trial("a", 9, 8, 7)
    assert stopped(ahead, *first_rung(b=1), trial("c"), trial("d")) == []
    assert stopped(ahead, *first_rung(b=1, c=2, d=3)) == ["a", "d"]


def test_a_later_rung_has_fewer_places() -> None:
    """Of nine trials three continue after step 10 and one after step 30."""
    late = [trial(name, loss, loss, loss) for name, loss in (("a", 1), ("b", 2), ("c", 3))]
    rest = [trial(str(n), 9, may_stop=False) for n in range(6)]
    assert stopped(*late, *rest) == ["b", "c"]


def test_a_trial_within_the_slack_is_not_stopped() -> None:
    policy = Asha(first_rung=0.1, eta=3, slack=0.01)
    assert stopped(*first_rung(a=1.0, b=1.009, c=1.02), policy=policy) == ["c"]


def test_a_nan_loss_ranks_last() -> None:
    trials = [trial("a", math.nan), trial("b", 5), trial("c", 6)]
    assert stopped(*trials) == ["a", "c"]


def test_a_finished_trial_counts_but_is_not_stopped() -> None:
    trials = [trial("a", 1), trial("b", 2, may_stop=False), trial("c", 3)]
    assert stopped(*trials) == ["c"]


def test_the_reason_has_the_figures() -> None:
    [(_, first), _] = stops(POLICY, first_rung(a=1, b=2, c=3))
    assert first == (
        "asha: held-out loss 2.0000 at step 10 has rank 2 (best 1.0000); "
        "1 of 3 trials may continue after it"
    )


@pytest.mark.parametrize("eta", [0, 1])
def test_halving_needs_a_factor(eta: int) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        Asha(eta=eta)
