"""Compares advice with the best settings in simulations. Letters: N steps, T tokens, E experts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evenload.pipeline.records.scores import Recording
from evenload.pipeline.spec.balancers import parse_balancer
from evenload.pipeline.spec.simulation import Gaussian, SimulationSpec
from evenload.workers.simulation.advice import Estimate, advise, estimate
from evenload.workers.simulation.run import simulate
from evenload.workers.simulation.score_streams import Size, score_stream


def recorded(
    drift: float, steps: int = 120, tokens: int = 512, experts: int = 16, seed: int = 0
) -> Recording:
    size = Size(1, tokens, experts, steps)
    stream = score_stream(Gaussian(drift=drift), size, torch.Generator().manual_seed(seed))
    score_NLTE = np.stack([score.numpy() for score in stream])
    return Recording(score_NLTE, np.zeros_like(score_NLTE[:, :, 0]), 2)


def seen(drift: float, steps: int = 120) -> Estimate:
    return estimate(recorded(drift, steps), 0)


def test_drift_is_separated_from_noise() -> None:
    stationary, drifting = seen(0.0), seen(0.05)
    assert stationary.gain < 0.06
    assert 0.3 < drifting.gain < 0.8
    assert drifting.noise == pytest.approx(stationary.noise, rel=0.5)


def test_noise_is_that_of_independent_tokens() -> None:
    stationary = seen(0.0)
    load = 512 * 2 / 16
    expected = load * (1 - 2 / 16) / stationary.density**2
    assert stationary.noise == pytest.approx(expected, rel=0.35)


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


def test_a_drifting_run_is_advised_against_one_over_n() -> None:
    inverse = [a for a in advise(seen(0.05), 1000) if a.rule.get("schedule") == "inverse"]
    assert all(advice.refused and "drifts" in advice.reason for advice in inverse)
    stationary = [a for a in advise(seen(0.0), 50) if a.rule.get("schedule") == "inverse"]
    assert not any(advice.refused for advice in stationary)


def test_still_scores_are_seldom_taken_for_drifting_ones() -> None:
    """One over n is right for them; half of these seeds have a slope above 0 by chance."""
    estimates = [estimate(recorded(0.0, seed=seed), 0) for seed in range(8)]
    advised = [advise(one, 1000)[1] for one in estimates]
    assert all(advice.rule["schedule"] == "inverse" for advice in advised)
    assert sum(advice.refused for advice in advised) <= 1
    assert any("may be noise" in advice.reason for advice in advised)
    assert sum(one.least_drift > 0 for one in estimates) < sum(one.drift > 0 for one in estimates)


def test_every_advised_rule_is_a_valid_setting() -> None:
    for advice in advise(seen(0.02), 500):
        assert parse_balancer(advice.rule).kind == advice.rule["kind"]


def test_sign_steps_over_n_can_move_a_bias_twice_as_far_as_it_must() -> None:
    estimated = seen(0.0)
    advised = [a.rule for a in advise(estimated, 50) if a.rule["kind"] == "sign"]
    (step,) = [rule["step_size"] for rule in advised if rule.get("schedule") == "inverse"]
    farthest = step * (np.log(50) + 0.5772)
    assert farthest == pytest.approx(2 * estimated.travel, rel=0.05)


def test_too_short_a_recording_is_refused() -> None:
    with pytest.raises(ValueError, match="record at least 64"):
        seen(0.0, steps=30)


def test_noise_is_that_of_a_whole_step_and_drift_that_of_one_step() -> None:
    """A sample of a quarter of the tokens, at every second step."""
    whole = recorded(0.03, steps=400, tokens=1024)
    sample = whole._replace(
        score_NLTE=whole.score_NLTE[::2, :, :256],
        bias_NLE=whole.bias_NLE[::2],
        every=2,
        step_tokens=1024,
    )
    expected, found = estimate(whole, 0), estimate(sample, 0)
    assert found.noise == pytest.approx(expected.noise, rel=0.35)
    assert found.drift == pytest.approx(expected.drift, rel=0.35)
    assert estimate(sample._replace(step_tokens=0), 0).noise == pytest.approx(4 * found.noise)
    assert estimate(sample._replace(every=1), 0).drift == pytest.approx(2 * found.drift)


def test_quantile_is_refused_for_logits() -> None:
    logits = estimate(recorded(0.0)._replace(unit="logit"), 0)
    (quantile,) = [a for a in advise(logits, 500) if a.rule["kind"] == "quantile"]
    assert quantile.refused
    assert quantile.reason == "its histogram is not made for a logit"
