from __future__ import annotations

import math

import pytest

from pipeline.records import CurvePoint
from pipeline.sweep.stopping.asha import rungs, stops
from pipeline.sweep.stopping.contest import Contestant
from pipeline.sweep_spec import Asha

POLICY = Asha(first_rung=0.1, eta=3, slack=0.0)


def contestant(digest: str, *losses: float, may_stop: bool = True) -> Contestant:
    """Losses at steps 10, 20, ... of 100."""
    curve = tuple(CurvePoint(10 * n, 80 * n, 1.0, loss, 0.1) for n, loss in enumerate(losses, 1))
    return Contestant(digest, curve, 100, may_stop)


def first_rung(**losses: float) -> list[Contestant]:
    return [contestant(digest, loss) for digest, loss in losses.items()]


def stopped(*contest: Contestant, policy: Asha = POLICY) -> list[str]:
    return [digest for digest, _ in stops(policy, contest)]


def test_rungs_lie_a_factor_apart_and_before_the_end() -> None:
    assert rungs(POLICY, 100) == [10, 30, 90]
    assert rungs(Asha(first_rung=0.25, eta=2), 8) == [2, 4]
    assert rungs(Asha(first_rung=0.01, eta=2), 10) == [1, 2, 4, 8]


def test_one_in_eta_goes_on() -> None:
    assert stopped(*first_rung(a=3, b=1, c=2, d=6, e=5, f=4)) == ["a", "d", "e", "f"]


def test_nobody_is_judged_before_eta_have_come() -> None:
    assert stopped(contestant("a", 1), contestant("b", 9)) == []
    assert stopped(contestant("a", 1), contestant("b", 9), contestant("c", 5)) == ["b", "c"]


def test_a_trial_is_judged_at_its_highest_rung() -> None:
    """`a` was worst at step 10, but is alone at step 30."""
    assert stopped(contestant("a", 9, 9, 0.5), *first_rung(b=1, c=2, d=3)) == ["d"]


def test_who_passed_is_judged_again_as_others_follow() -> None:
    first = contestant("a", 2.0)
    assert stopped(first) == []
    assert stopped(first, contestant("b", 1.0), contestant("c", 1.5)) == ["a", "c"]


def test_within_the_slack_nobody_is_stopped() -> None:
    contest = [contestant("a", 1.0), contestant("b", 1.009), contestant("c", 1.02)]
    assert stopped(*contest, policy=Asha(eta=3, slack=0.01)) == ["c"]


def test_a_loss_that_is_no_number_is_the_worst() -> None:
    contest = [contestant("a", math.nan), contestant("b", 5), contestant("c", 6)]
    assert stopped(*contest) == ["a", "c"]


def test_who_is_over_counts_but_is_not_stopped() -> None:
    contest = [contestant("a", 1), contestant("b", 2, may_stop=False), contestant("c", 3)]
    assert stopped(*contest) == ["c"]


def test_the_reason_has_the_figures() -> None:
    [(_, first), _] = stops(POLICY, first_rung(a=1, b=2, c=3))
    assert first == (
        "asha: held-out loss 2.0000 at step 10 is number 2 of 3 (best 1.0000); one in 3 goes on"
    )


@pytest.mark.parametrize("eta", [0, 1])
def test_halving_needs_a_factor(eta: int) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        Asha(eta=eta)
