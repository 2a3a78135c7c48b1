from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Stage, TrialRecord
from evenload.pipeline.sweep.answer import answer_of
from evenload.pipeline.sweep.step_curves import step_curves

Row = Callable[..., TrialRecord]


def trial(seed: int, experts: int = 16, **balancer: Any) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "model": {"preset": "tiny", "num_experts": experts},
            "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16, "seed": seed},
            "balancer": balancer,
        }
    )


def sweep(row: Row, stage: Stage = Stage.TUNE, seeds: range = range(5)) -> list[TrialRecord]:
    rules = (
        ({"kind": "none"}, 3.02, 4.0),
        ({"kind": "sign", "step_size": 0.001}, 3.01, 2.0),
        ({"kind": "sign", "step_size": 0.01}, 3.0, 0.4),
        ({"kind": "sign", "step_size": 0.1}, 3.0, 0.41),
        ({"kind": "sign", "step_size": 0.1, "schedule": "inverse"}, 3.0, 1.0),
        ({"kind": "quantile"}, 3.0, 1.0),
    )
    rows = []
    for seed in seeds:
        for number, (rule, loss, vio) in enumerate(rules):
            jitter = 0.001 * math.sin(7 * seed + number)
            figures = (loss + jitter, vio * math.exp(30 * jitter))
            rows.append(row(trial(seed, **rule), *figures, stage=stage))
    return rows


def test_only_rules_with_several_step_sizes_have_a_curve(row: Row) -> None:
    [curve] = step_curves(answer_of(sweep(row)), "over_floor")
    assert (curve.rule, curve.place) == ("sign", "16 experts")
    assert [point.step for point in curve.points] == [0.001, 0.01, 0.1]


def test_the_named_setting_and_its_ties_are_marked(row: Row) -> None:
    [curve] = step_curves(answer_of(sweep(row)), "over_floor")
    assert [point.role for point in curve.points] == ["other", "named", "tied in evenness"]
    [alone] = step_curves(answer_of(sweep(row, seeds=range(1))), "loss")
    assert [point.role for point in alone.points][1] == "most even so far"


def test_figures_are_those_of_the_setting(row: Row) -> None:
    answer = answer_of(sweep(row))
    setting = next(s for s in answer.settings if s.label == "sign 0.01")
    for figure, mean in (("loss", setting.mean_loss), ("over_floor", setting.over_floor)):
        point = step_curves(answer, figure)[0].points[1]
        assert point.mean == pytest.approx(mean)
        assert point.low < point.mean < point.high
    [alone] = step_curves(answer_of(sweep(row, seeds=range(1))), "loss")
    assert all(math.isnan(point.low) for point in alone.points)


def test_a_confirmed_sweep_shows_the_curves_of_its_search(row: Row) -> None:
    fresh = [t for t in sweep(row, Stage.CONFIRM, range(7, 12)) if t.label in ("none", "sign 0.1")]
    [curve] = step_curves(answer_of([*sweep(row), *fresh]), "loss")
    assert len(curve.points) == 3
    assert curve.points[2].role == "named"
