from __future__ import annotations

import math
from typing import Any

import pytest

from evenload.dashboard.cost.tables import bill, bill_table, losses, mean_share, plan_of, sizes
from evenload.pipeline.figures.cost import CostSettings, Waiting
from evenload.pipeline.sweep.axes import Axes

SETTINGS = CostSettings(gpu_watts=700, overhead=1.2, grams_per_kwh=500, carbon_source="a test")
PLAN = plan_of(ranks=4, gpu_hours=1000, price=3, watts=700, settings=SETTINGS)


def _waiting(ranks: int, share: float) -> Waiting:
    return Waiting(ranks, expert_share=0.9, step_share=share, steady_step_share=share)


@pytest.fixture
def found(demo: Any) -> Any:
    none, other = demo.trial("finished", "none", 8), demo.trial("finished", "none", 16)
    return losses(
        [
            (none, [_waiting(2, 0.1), _waiting(4, 0.2)]),
            (none, [_waiting(2, 0.3), _waiting(4, 0.6)]),
            (other, [_waiting(2, 0.2)]),
            (other, []),
        ],
        Axes(per=("model.num_experts",)),
    )


def test_trials_of_a_setting_are_averaged_with_their_range(found: Any) -> None:
    eight, sixteen = found
    assert (eight.label, eight.experts, eight.trials) == ("none", 8, 2)
    assert eight.share_R == pytest.approx({2: 0.2, 4: 0.4})
    assert (eight.low_R[4], eight.high_R[4]) == (0.2, 0.6)
    assert sixteen.trials == 1  # a trial without loads does not count
    assert sizes(found) == [2, 4]
    assert sizes([]) == []


def test_hours_become_money_energy_and_carbon() -> None:
    lost = bill(0.25, PLAN)
    assert (lost.gpu_hours, lost.money) == (250, 750)
    assert lost.kwh == pytest.approx(250 * 0.7 * 1.2)
    assert lost.kilograms == pytest.approx(lost.kwh * 0.5)


def test_only_settings_that_can_be_spread_over_the_ranks_are_billed(found: Any) -> None:
    table = bill_table(found, PLAN)
    assert table.experts.tolist() == [8]
    assert table.share.tolist() == pytest.approx([40])
    assert bill_table(found, PLAN._replace(ranks=64)).empty


def test_share_of_a_setting_is_its_mean_over_expert_counts(found: Any) -> None:
    assert mean_share(found, ["none"], 2) == pytest.approx(0.2)
    assert math.isnan(mean_share(found, ["sign 0.01"], 2))
