from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evenload.pipeline.records.run import StepRecord
from evenload.pipeline.records.scalars import logged_scalars
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
