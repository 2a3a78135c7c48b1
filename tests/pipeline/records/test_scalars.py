from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evenload.pipeline.figures.evaluation import Detail, GroupScores
from evenload.pipeline.figures.loads import max_vio_floor
from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.records.run import EvalRecord, StepRecord
from evenload.pipeline.records.scalars import evaluation_figures, logged_scalars
from evenload.pipeline.spec.trial import TrialSpec

Record = Callable[..., StepRecord]


def test_a_step_logs_at_most_25_figures_and_none_per_expert(
    record: Record, spec: TrialSpec
) -> None:
    scalars = logged_scalars(record(3), None, spec)
    assert len(scalars) <= 25
    assert {"loss", "grad_norm", "tokens_per_second", "max_vio", "max_vio_floor"} <= scalars.keys()


def test_bias_figures_are_means_over_layers(record: Record, spec: TrialSpec) -> None:
    before = np.zeros((2, 16), np.float32)
    bias = before.copy()
    bias[0, 0], bias[0, 1], bias[1, 2] = 0.5, -0.25, 0.125
    scalars = logged_scalars(record(3, bias_LE=bias), before, spec)
    assert scalars["bias_spread"] == pytest.approx((0.75 + 0.125) / 2)
    assert scalars["bias_absmax"] == pytest.approx((0.5 + 0.125) / 2)
    assert scalars["bias_mean"] == pytest.approx(0.375 / 32)
    assert scalars["bias_step"] == pytest.approx(0.875 / 32)


def test_bias_step_is_zero_at_the_first_step_of_an_attempt(record: Record, spec: TrialSpec) -> None:
    assert logged_scalars(record(3), None, spec)["bias_step"] == 0.0


def test_count_check_fails_if_an_assignment_is_missing(record: Record, spec: TrialSpec) -> None:
    counts = record(3).count_LE.copy()
    assert logged_scalars(record(3, count_LE=counts), None, spec)["count_check"] == 1.0
    counts[1, 4] -= 1
    assert logged_scalars(record(3, count_LE=counts), None, spec)["count_check"] == 0.0


def test_throughput_is_tokens_of_the_step_over_its_seconds(record: Record, spec: TrialSpec) -> None:
    assert logged_scalars(record(3), None, spec)["tokens_per_second"] == 128 / 0.5
    assert np.isnan(logged_scalars(record(3, seconds=0.0), None, spec)["tokens_per_second"])


def test_every_recorded_figure_is_in_the_table_of_metrics(record: Record, spec: TrialSpec) -> None:
    step = logged_scalars(record(3), None, spec)
    assert {name for name, metric in METRICS.items() if "step" in metric.of} == step.keys()
    groups = GroupScores(
        ("a", "b"), np.ones(2), np.array([2.0, 3.0]), np.ones(2, int), np.ones((2, 2, 16), int)
    )
    evaluated = EvalRecord(9, 1.0, 2.0, 2.7, 800, np.full((2, 16), 100), Detail(groups), 0.01)
    found = evaluation_figures(evaluated, spec)
    assert {name for name, metric in METRICS.items() if "evaluation" in metric.of} == found.keys()
    assert found["val_bits_per_byte_worst_group"] == 3.0
    assert found["max_vio_global"] == 0.0
    assert found["max_vio_global_floor"] == max_vio_floor(800, 16, spec.model.top_k)


def test_floors_follow_the_balancers_target(record: Record, spec: TrialSpec) -> None:
    shares = (0.15, *[0.85 / 15] * 15)
    balancer = spec.balancer.model_copy(update={"target": shares})
    wanted = spec.model_copy(update={"balancer": balancer})
    floor = max_vio_floor(spec.train.tokens_per_step, 16, spec.model.top_k, shares)
    assert logged_scalars(record(3), None, wanted)["max_vio_floor"] == floor
    assert logged_scalars(record(3), None, spec)["max_vio_floor"] != floor
