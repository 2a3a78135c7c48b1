from __future__ import annotations

import re
from typing import Any

from evenload.pipeline.figures.memory import FRAMEWORK_BYTES, GIB, memory_bytes, misfit
from evenload.pipeline.figures.model_size import model_size
from evenload.pipeline.spec.trial import TrialSpec


def _spec(device: str = "cpu", workers: int = 1, **train: Any) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "model": {"preset": "small"},
            "data": {"kind": "synthetic", "vocab_size": 256},
            "balancer": {"kind": "none"},
            "train": {"steps": 2, "batch_sequences": 64, "seq_len": 512} | train,
            "runtime": {"device": device, "backend": "torch", "workers": workers},
        }
    )


def test_memory_is_that_of_the_model_and_the_framework() -> None:
    spec = _spec()
    trained = model_size(spec.model).train_memory_bytes(spec.train)
    assert memory_bytes(spec) == trained + FRAMEWORK_BYTES["cpu"]


def test_workers_share_the_batch_but_not_the_weights() -> None:
    alone, shared = memory_bytes(_spec()), memory_bytes(_spec(workers=4))
    quarter = memory_bytes(_spec(batch_sequences=16))
    assert shared == quarter < alone
    assert memory_bytes(_spec(workers=4, micro_batch_sequences=8)) < quarter


def test_a_trial_that_fits_is_not_refused() -> None:
    spec = _spec()
    assert misfit(spec, memory_bytes(spec)) is None
    assert misfit(spec, memory_bytes(spec) - 1) is not None


def test_the_remedy_fits_and_is_the_smallest_change() -> None:
    problem = misfit(_spec(), 4 * GIB)
    assert problem is not None
    assert "the host has 4.0 GiB" in problem
    (micro,) = map(int, re.findall(r"train\.micro_batch_sequences=(\d+) needs", problem))
    assert memory_bytes(_spec(micro_batch_sequences=micro)) <= 4 * GIB
    assert memory_bytes(_spec(micro_batch_sequences=2 * micro)) > 4 * GIB


def test_recomputation_is_the_remedy_if_small_batches_do_not_suffice() -> None:
    least = memory_bytes(_spec(micro_batch_sequences=1))
    problem = misfit(_spec(), least - 1)
    assert problem is not None
    assert "train.recompute=true" in problem


def test_a_model_that_cannot_fit_needs_a_larger_device() -> None:
    problem = misfit(_spec(device="cuda"), GIB)
    assert problem is not None
    assert "the GPU has 1.0 GiB" in problem
    assert "no micro-batch is small enough" in problem
