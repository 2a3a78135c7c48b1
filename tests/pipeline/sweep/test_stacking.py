from __future__ import annotations

from typing import Any

import pytest

from evenload.pipeline.spec.balancers import BALANCERS
from evenload.pipeline.spec.stacking import UNSTACKABLE, can_stack, shape_of
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.sweep.stacking import stack_size


def make(**changes: Any) -> TrialSpec:
    parts: dict[str, Any] = {
        "model": {"preset": "tiny"},
        "balancer": {"kind": "sign"},
        "train": {"steps": 9, "batch_sequences": 8, "seq_len": 128},
        "runtime": {"device": "cpu", "backend": "torch"},
    }
    merged = {
        key: part | changes.get(key, {}) if key != "balancer" else changes.get(key, part)
        for key, part in (parts | {key: {} for key in changes if key not in parts}).items()
    }
    return TrialSpec.model_validate(merged)


@pytest.mark.parametrize(
    ("changes", "is_alike"),
    [
        ({"balancer": {"kind": "quantile"}}, True),
        ({"balancer": {"kind": "sign", "step_size": 0.5}}, True),
        ({"train": {"seed": 7}}, True),
        ({"train": {"learning_rate": 1e-4}}, False),
        ({"train": {"steps": 10}}, False),
        ({"model": {"num_experts": 32}}, False),
        ({"eval": {"tokens": 4096}}, False),
        ({"runtime": {"checkpoint_every": 7}}, False),
    ],
    ids=str,
)
def test_rule_step_size_and_seed_do_not_change_the_shape(
    changes: dict[str, Any], is_alike: bool
) -> None:
    assert (shape_of(make()) == shape_of(make(**changes))) is is_alike


@pytest.mark.parametrize(
    "changes",
    [
        {"runtime": {"backend": "reference"}},
        {"runtime": {"workers": 2}},
        {"train": {"recompute": True}},
        {"train": {"compile": True, "precision": "bfloat16"}},
        {"eval": {"every_steps": 3}},
        *({"balancer": {"kind": kind}} for kind in sorted(UNSTACKABLE)),
    ],
    ids=str,
)
def test_trials_that_cannot_be_stacked_train_alone(changes: dict[str, Any]) -> None:
    spec = make(**changes)
    assert not can_stack(spec)
    assert stack_size(spec, untrained=8, slots=1) == 1


@pytest.mark.parametrize("kind", sorted(set(BALANCERS) - UNSTACKABLE))
def test_every_other_rule_can_be_stacked(kind: str) -> None:
    assert can_stack(make(balancer={"kind": kind}))


@pytest.mark.parametrize(
    ("untrained", "slots", "size"),
    [(8, 1, 8), (8, 2, 4), (7, 2, 4), (1, 1, 1), (3, 8, 1), (99, 1, 8)],
)
def test_no_slot_idles_for_a_larger_stack(untrained: int, slots: int, size: int) -> None:
    assert stack_size(make(), untrained, slots) == size


def test_on_a_cpu_large_batches_train_alone() -> None:
    """Measurements show no gain for them, see LARGEST_ACTIVATION."""
    assert stack_size(make(train={"batch_sequences": 16}), 8, 1) == 8
    assert stack_size(make(train={"batch_sequences": 32}), 8, 1) == 1
    micro = {"batch_sequences": 32, "micro_batch_sequences": 8}
    assert stack_size(make(train=micro), 8, 1) == 8
    assert stack_size(make(model={"preset": "small"}), 8, 1) == 1
