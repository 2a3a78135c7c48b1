"""Advice against what simulation finds best. Letters: N steps, T tokens, E experts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evenload.pipeline.spec.balancers import parse_balancer
from evenload.pipeline.spec.simulation import Gaussian, SimulationSpec
from evenload.workers.simulation.advice import Estimate, advise, estimate, judge, travel_limit
from evenload.workers.simulation.run import simulate
from evenload.workers.simulation.score_streams import Size, score_stream


def seen(drift: float, steps: int = 120, tokens: int = 512, experts: int = 16) -> Estimate:
    size = Size(1, tokens, experts, steps)
    stream = score_stream(Gaussian(drift=drift), size, torch.Generator().manual_seed(0))
    return estimate(np.stack([score[0].numpy() for score in stream]), 2)


def test_drift_is_told_from_noise() -> None:
    still, moving = seen(0.0), seen(0.05)
    assert still.gain < 0.06
    assert 0.3 < moving.gain < 0.8
    assert moving.noise == pytest.approx(still.noise, rel=0.5)


def test_noise_is_that_of_independent_tokens() -> None:
    still = seen(0.0)
    load = 512 * 2 / 16
    expected = load * (1 - 2 / 16) / still.density**2
    assert still.noise == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize("drift", [0.02, 0.05])
def test_the_advised_step_is_near_the_best_of_a_grid(drift: float) -> None:
    advised = next(a for a in advise(seen(drift), 250) if a.rule["kind"] == "proportional")
    grid = [0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128]
    spec = SimulationSpec.model_validate(
        {
            "tokens": 512,
            "num_experts": 16,
            "top_k": 2,
            "steps": 250,
            "seeds": 3,
            "streams": {"drift": {"kind": "gaussian", "drift": drift}},
            "rules": [{"kind": "proportional", "step_size": grid}, advised.rule],
        }
    )
    rows = simulate(spec).rows()
    assert rows[-1]["max_vio"] < 1.08 * min(row["max_vio"] for row in rows[:-1])


def test_a_schedule_that_cannot_reach_the_bias_is_refused_with_the_reason() -> None:
    verdict = judge(
        parse_balancer({"kind": "sign", "step_size": 1e-3, "schedule": "inverse"}), seen(0.0), 3000
    )
    assert verdict.refused
    assert "can move a bias by 0.0086 in 3000 steps" in verdict.reason


def test_a_step_beyond_the_stability_limit_is_refused() -> None:
    estimated = seen(0.0)
    limit = 2 * (2 / 16) / estimated.largest
    for factor, refused in ((0.8, False), (1.2, True)):
        rule = parse_balancer({"kind": "proportional", "step_size": factor * limit})
        assert judge(rule, estimated, 1000).refused is refused


def test_a_drifting_run_is_advised_against_one_over_n() -> None:
    inverse = [a for a in advise(seen(0.05), 1000) if a.rule.get("schedule") == "inverse"]
    assert all(advice.refused and "drifts" in advice.reason for advice in inverse)
    still = [a for a in advise(seen(0.0), 50) if a.rule.get("schedule") == "inverse"]
    assert not any(advice.refused for advice in still)


def test_every_advised_rule_is_a_valid_setting() -> None:
    for advice in advise(seen(0.02), 500):
        assert parse_balancer(advice.rule).kind == advice.rule["kind"]


def test_travel_of_one_over_n_is_logarithmic() -> None:
    assert travel_limit(1e-3, "inverse", 3000) == pytest.approx(
        1e-3 * (np.log(3000) + 0.5774), 1e-3
    )
    assert travel_limit(1e-3, "constant", 3000) == pytest.approx(3.0)


def test_too_short_a_recording_is_refused() -> None:
    with pytest.raises(ValueError, match="record at least 64"):
        seen(0.0, steps=30)
