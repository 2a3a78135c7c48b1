from __future__ import annotations

import pytest

from evenload.pipeline.spec.simulation import Gaussian
from evenload.workers.simulation.score_streams import Size
from infra.research.rejected_rules import lag_one
from infra.research.tuned_comparison import compare, report, rule, tuned_rules

SIZE = Size(seeds=2, tokens=512, experts=8, steps=80)


def test_contenders_are_compared_with_the_best_tuned_rule() -> None:
    tuned = {u: rule("proportional", 2, step_size=float(u)) for u in ("1e-4", "2e-2", "0.5")}
    contenders = {"none": rule("none", 2), "self_tuned": rule("self_tuned", 2)}
    none, ours, best = compare(contenders, tuned, Gaussian(), SIZE, 2)
    assert best.rule == "2e-2"
    assert best.over_tuned == 0
    assert none.over_tuned == pytest.approx(none.max_vio / best.max_vio - 1)
    assert none.over_tuned > 1
    assert ours.over_tuned < 0.1
    assert ours.steps_to_balance is not None
    assert ours.steps_to_balance <= 4
    assert none.steps_to_balance is None


def test_the_grid_covers_every_tuned_family() -> None:
    kinds = {name.split()[0] for name in tuned_rules(2)}
    assert kinds == {"proportional", "sign", "quantile"}


def test_a_report_has_one_line_per_rule(capsys: pytest.CaptureFixture[str]) -> None:
    scores = compare({"none": rule("none", 2)}, {"q": rule("quantile", 2)}, Gaussian(), SIZE, 2)
    report("still", scores)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["still", "none", "q"]


def test_the_lag_one_variant_balances_and_recovers_more_slowly_than_self_tuned() -> None:
    contenders = {"lag one": lag_one(), "self_tuned": rule("self_tuned", 2)}
    size = SIZE._replace(tokens=2048, experts=16, steps=120)
    older, ours, _ = compare(contenders, {"q": rule("quantile", 2)}, Gaussian(jump_at=0.5), size, 2)
    assert older.max_vio < 0.25
    assert older.recovery_steps is not None
    assert ours.recovery_steps is not None
    assert ours.recovery_steps < older.recovery_steps
