from __future__ import annotations

import numpy as np
import pytest

from evenload.pipeline.figures.step_curves import advised_sign_steps, motion
from evenload.pipeline.records.scores import Recording
from evenload.pipeline.spec.simulation import SimulationSpec
from evenload.workers.simulation.advice import advise, estimate
from evenload.workers.simulation.rule_runner import run_rules

STEPS = 200


def test_recorded_biases_advise_the_steps_that_recorded_scores_advise() -> None:
    """The best bias drifts, so that the steadiest step is not tiny."""
    spec = SimulationSpec.model_validate(
        {
            "tokens": 256, "num_experts": 16, "top_k": 2, "steps": STEPS, "seeds": 1,
            "streams": {"drifting": {"kind": "gaussian", "drift": 0.02}},
            "rules": [{"kind": "self_tuned"}],
        }
    )  # fmt: skip
    frames = [step["self_tuned"] for step in run_rules(spec, spec.streams["drifting"])]
    score_NLTE = np.stack([frame.score_STE.numpy() for frame in frames])
    bias_NLE = np.stack([frame.bias_SE.numpy() for frame in frames])
    seen = estimate(Recording(score_NLTE, np.zeros_like(bias_NLE), 2), 0)
    advice = next(one for one in advise(seen, STEPS) if one.rule["kind"] == "sign")
    found = motion(bias_NLE[-100:])
    assert found is not None
    low, high = advised_sign_steps(found.reach, found.pace, STEPS)
    assert high == pytest.approx(advice.rule["step_size"], rel=0.3)
    steadier = float(advice.reason.split("; ")[1].split()[0])
    assert low == pytest.approx(steadier, rel=0.3)
