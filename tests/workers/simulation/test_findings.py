from __future__ import annotations

import json

from evenload.pipeline.spec.simulation import SimulationSpec
from evenload.workers.simulation.run import simulate

SPEC = SimulationSpec.model_validate(
    {
        "tokens": 256,
        "num_experts": 8,
        "top_k": 2,
        "steps": 80,
        "seeds": 2,
        "streams": {"still": {"kind": "gaussian"}},
        "rules": [{"kind": "proportional", "step_size": [0.02, 3.0]}, {"kind": "self_tuned"}],
    }
)


def test_every_rule_gets_every_statement_and_its_regret() -> None:
    result = simulate(SPEC, theory=True)
    rows = result.finding_rows()
    assert len(rows) == 3 * 8
    found = {(row["rule"], row["statement"]): row["finding"] for row in rows}
    assert found["proportional 0.02", "one-step identity of the dual"] == "holds in all 20"
    assert found["proportional 0.02", "step below the stability limit"] == "holds in all 20"
    assert found["proportional 3", "the dual falls in a step"] != "holds in all 20"
    assert found["proportional 3", "step below the stability limit"].startswith("violated")
    assert "below the bound" in found["proportional 0.02", "regret against the best fixed bias"]
    regrets = {finding.rule: finding.regret.total for finding in result.findings}
    assert regrets["self_tuned"] < regrets["proportional 0.02"] < regrets["proportional 3"]


def test_findings_are_json() -> None:
    content = json.loads(json.dumps(simulate(SPEC, theory=True).to_dict(), allow_nan=False))
    assert [entry["rule"] for entry in content["theory"]] == [rule.label for rule in SPEC.rules]
    assert len(content["theory"][0]["verdicts"]) == 7


def test_theory_is_not_checked_by_default() -> None:
    assert simulate(SPEC).findings == ()
