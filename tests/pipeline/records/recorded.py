"""A recorded run of a mixture with two layers, as an attached training writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evenload.pipeline.records.run import StepRecord
from evenload.pipeline.records.run_writer import RunWriter, recorded_step
from evenload.pipeline.spec.balancers import parse_balancer
from evenload.pipeline.spec.load_shape import LoadShape

SHAPE = LoadShape(layers=("3", "5"), num_experts=8, top_k=2)
TOKENS = 256


def writer(home: Path, name: str = "my model") -> RunWriter:
    rule = parse_balancer({"kind": "sign", "step_size": 0.01})
    return RunWriter.create(
        home, name, source="attach", shape=SHAPE, balancer=rule, planned_steps=200
    )


def steps(first: int, last: int) -> list[StepRecord]:
    """The first expert of the second layer has more and more to do; the last one never any."""
    records = []
    for step in range(first, last + 1):
        rng = np.random.default_rng(step)
        share_LE = np.full((2, 8), 1 / 8)
        share_LE[1] = [1 + step / 20, 1, 1, 1, 1, 1, 1, 0]
        share_LE /= share_LE.sum(axis=-1, keepdims=True)
        count_LE = np.stack([rng.multinomial(TOKENS * 2, share_E) for share_E in share_LE])
        bias_LE = np.full((2, 8), step / 100, np.float32)
        told = {"loss": 4 - step / 100} if step % 10 == 0 else {}
        records.append(recorded_step(step, count_LE, bias_LE, seconds=0.5, **told))
    return records
