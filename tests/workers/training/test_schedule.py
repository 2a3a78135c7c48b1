from __future__ import annotations

import pytest

from evenload.pipeline.spec.trial import TrainSpec
from evenload.workers.training.schedule import learning_rate


def train(**changes: object) -> TrainSpec:
    fields = {"steps": 100, "batch_sequences": 1, "seq_len": 8, "learning_rate": 1.0}
    return TrainSpec.model_validate(fields | changes)


def test_warm_up_is_linear_and_reaches_the_rate() -> None:
    spec = train(warmup_steps=10)
    assert [learning_rate(spec, step) for step in (1, 5, 10)] == [0.1, 0.5, 1.0]


def test_cosine_is_half_way_in_the_middle_and_ends_at_the_floor() -> None:
    spec = train(schedule="cosine", min_lr_share=0.2)
    assert learning_rate(spec, 50) == pytest.approx(0.6)
    assert learning_rate(spec, 100) == pytest.approx(0.2)


def test_wsd_holds_then_decays_linearly() -> None:
    spec = train(schedule="wsd", decay_share=0.2, min_lr_share=0.0)
    assert learning_rate(spec, 80) == pytest.approx(1.0)
    assert learning_rate(spec, 90) == pytest.approx(0.5)
    assert learning_rate(spec, 100) == pytest.approx(0.0, abs=1e-12)


def test_the_constant_schedule_never_changes() -> None:
    assert {learning_rate(train(schedule="constant"), step) for step in (1, 50, 100)} == {1.0}
