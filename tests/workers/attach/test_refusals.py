"""What attach refuses, and how it says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import evenload
from evenload.workers.attach import AttachError
from tests.workers.attach.models import PROBE, model, tokens
from tests.workers.attach.sessions import attach


class Stepper:
    """Looks like an optimizer and is none of torch's."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "sgin"}, "'sgin' is not a balancing rule"),
        ({"rule": {"kind": "sign", "step": 1}}, "step.*unknown key"),
        ({"rule": "aux_loss"}, "'aux_loss' does more than move a bias"),
        ({"rule": "sinkhorn"}, "'sinkhorn' does more than move a bias"),
        ({"rule": "frozen_router"}, "freezes routers"),
        ({"rule": {"kind": "quantile", "method": "exact"}}, "keeps the scores of all tokens"),
        ({"rule": {"kind": "sign", "freeze_from": 0.9}}, "total_steps="),
        ({"rule": {"kind": "self_tuned", "target": [0.5, 0.5]}}, "2 shares.*has 8 experts"),
        ({"every": 0}, "every=0"),
        ({"probe": torch.zeros(2, 2)}, r"probe batch fails in Model\.forward"),
        ({"probe": tokens(3, 8)}, "sequence lengths \\[8\\]"),
        ({"routers": []}, "no router"),
    ],
)
def test_bad_input_is_named_and_the_model_is_left_alone(
    options: dict[str, Any], message: str
) -> None:
    trained = model()
    keys, classes = list(trained.state_dict()), [type(module) for module in trained.modules()]
    with pytest.raises((AttachError, ValueError), match=message):
        evenload.attach(trained, **{"probe": PROBE, "added_bias": "keep", **options})
    assert list(trained.state_dict()) == keys
    assert [type(module) for module in trained.modules()] == classes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in trained.modules())


def test_what_is_no_optimizer_is_refused() -> None:
    with pytest.raises(AttachError, match=r"Stepper has no step hooks.*balance\.step\(\)"):
        attach(model()).watch(Stepper())  # type: ignore[arg-type]


def test_a_second_attach_is_refused() -> None:
    trained = model()
    attach(trained)
    with pytest.raises(AttachError, match=r"layers\.0\.mlp\.gate is attached already"):
        attach(trained)


def test_the_copies_that_data_parallel_makes_for_its_threads_are_refused() -> None:
    trained = model()
    attach(trained)
    with pytest.raises(AttachError, match=r"shallow copy.*use DistributedDataParallel"):
        trained._replicate_for_data_parallel()(tokens())


def test_a_model_that_attach_cannot_feed_asks_for_a_batch() -> None:
    with pytest.raises(AttachError, match=r"Model has no config.vocab_size.*probe="):
        evenload.attach(model())
