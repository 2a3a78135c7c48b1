from __future__ import annotations

from evenload.pipeline.figures.model_size import model_size
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.sweep.trial_plan import plan_trial, totals

TRIAL = TrialSpec.model_validate(
    {
        "model": {"preset": "tiny"},
        "balancer": {"kind": "sign", "step_size": 0.01},
        "train": {"steps": 10, "batch_sequences": 4, "seq_len": 32, "seed": 3},
    }
)
LARGER = TRIAL.model_copy(
    update={"model": TRIAL.model.model_copy(update={"num_experts": 64})},
)


def test_plan_estimates_what_the_trial_will_need() -> None:
    plan = plan_trial(TRIAL)
    assert (plan.label, plan.num_experts, plan.seed) == ("sign 0.01", 16, 3)
    assert plan.tokens == 10 * 4 * 32
    assert plan.train_flops == model_size(TRIAL.model).train_flops_per_token(32) * plan.tokens
    assert plan.parameters > plan.active_parameters


def test_totals_add_up_but_memory_is_the_largest() -> None:
    plans = [plan_trial(TRIAL), plan_trial(LARGER)]
    found = totals(plans)
    assert found.trials == 2
    assert found.tokens == 2 * plans[0].tokens
    assert found.disk_bytes == plans[0].disk_bytes + plans[1].disk_bytes
    assert found.memory_bytes == plans[1].memory_bytes > plans[0].memory_bytes
    assert totals([]).memory_bytes == 0
