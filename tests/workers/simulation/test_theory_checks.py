"""Each check passes where its statement holds, and reports violations. Letters: T, E, K."""

from __future__ import annotations

import pytest
import torch

from evenload.workers.simulation.dual import loads
from evenload.workers.simulation.theory_checks import (
    Transition,
    Verdict,
    approximate_balance,
    check,
    convexity,
    monotone,
    preference,
    stability,
    sufficient,
)

EVEN = torch.full((8,), 64.0, dtype=torch.float64)


def updates(step_size: float, kind: str = "proportional", count: int = 10) -> list[Transition]:
    """Updates of one rule on fixed scores, starting from zero biases."""
    generator = torch.Generator().manual_seed(0)
    logit = torch.randn(256, 8, generator=generator, dtype=torch.float64)
    score = torch.sigmoid(logit + torch.linspace(1, -1, 8, dtype=torch.float64))
    bias, found = torch.zeros(8, dtype=torch.float64), []
    for _ in range(count):
        error = EVEN - loads(score, bias, 2)
        after = bias + step_size * (error / EVEN if kind == "proportional" else error.sign())
        found.append(Transition(score, bias, after, EVEN, 2))
        bias = after
    return found


def test_small_steps_lower_the_dual_and_very_large_ones_do_not() -> None:
    assert monotone(updates(0.01)).finding == "holds in all 10"
    large = monotone(updates(2.0))
    assert large.held < 8
    assert "condition right in 10" in large.figure


def test_the_sufficient_form_is_never_contradicted() -> None:
    verdict = sufficient(updates(0.01))
    assert verdict.cases > 3
    assert verdict.held == verdict.cases


@pytest.mark.parametrize("kind", ["proportional", "sign"])
def test_tokens_go_from_fuller_to_emptier_experts(kind: str) -> None:
    verdict = preference(updates(0.02, kind))
    assert verdict.cases > 20
    assert verdict.held == verdict.cases
    assert "100.0 % of them" in verdict.figure


def test_a_step_with_its_sign_flipped_is_detected() -> None:
    flipped = [
        case._replace(next_bias_E=2 * case.bias_E - case.next_bias_E) for case in updates(0.02)
    ]
    assert monotone(flipped).held == 0
    assert "0.0 % of them" in preference(flipped).figure


def test_loads_at_the_optimum_are_within_a_token_per_expert() -> None:
    verdict = approximate_balance(updates(0.01, count=3), 256)
    assert verdict.finding == "holds in all 3"


def test_experts_that_never_compete_break_strong_convexity() -> None:
    torch.manual_seed(0)
    score = torch.rand(256, 8, dtype=torch.float64)
    score[:128, 4:] -= 10
    score[128:, :4] -= 10
    bias = torch.zeros(8, dtype=torch.float64)
    assert convexity([Transition(score, bias, bias, EVEN, 2)]).finding == "violated in all 1"


def test_steps_are_measured_in_units_of_the_stability_limit() -> None:
    assert stability(updates(0.01)).finding == "holds in all 10"
    assert stability(updates(1.0)).held <= 3


def test_every_statement_gets_a_verdict_with_numbers() -> None:
    verdicts = check(updates(0.02))
    assert len(verdicts) == 7
    assert all(any(digit in verdict.figure for digit in "0123456789") for verdict in verdicts)
    # Far from the optimum few tokens are between some experts, so the graph may be disconnected.
    assert sum(verdict.held < verdict.cases for verdict in verdicts) <= 1
    assert all(verdict.held >= 0.9 * verdict.cases for verdict in verdicts)


@pytest.mark.parametrize(
    ("held", "cases", "finding"),
    [
        (0, 0, "does not apply to any case"),
        (4, 4, "holds in all 4"),
        (0, 4, "violated in all 4"),
        (1, 4, "holds in 25.0 % of 4"),
    ],
)
def test_a_finding_counts_the_cases_that_held(held: int, cases: int, finding: str) -> None:
    assert Verdict("", held, cases, "").finding == finding
