"""evenload's own model trains as it did before other models could: figures recorded on 2026-11-26.

Bit for bit they were equal on one machine; another machine sums in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evenload.pipeline.records.shards import read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.training.loop import TrainOutcome

# balancer, changes of `train`, digest of the spec, losses of the last two of 12 steps
RECORDED: list[tuple[dict[str, Any], dict[str, Any], str, tuple[float, float]]] = [
    (
        {"kind": "sign", "step_size": 0.01},
        {},
        "d4117bb24d27f82d",
        (3.3362388610839844, 3.4501521587371826),
    ),
    (
        {"kind": "self_tuned"},
        {"micro_batch_sequences": 2},
        "35d7ca5a59064d61",
        (3.3382582664489746, 3.450303077697754),
    ),
    (
        {"kind": "aux_loss"},
        {"recompute": True},
        "54360e31316f82ef",
        (3.3385207653045654, 3.45054292678833),
    ),
    ({"kind": "sinkhorn"}, {}, "154a8b9eed11e8a4", (3.338836193084717, 3.4439306259155273)),
    ({"kind": "expert_choice"}, {}, "fbf94837692da10a", (3.340911865234375, 3.4484853744506836)),
    (
        {"kind": "frozen_router"},
        {},
        "95b07005171063d2",
        (3.3405065536499023, 3.4500510692596436),
    ),
]


@pytest.mark.parametrize(("balancer", "train", "digest", "losses"), RECORDED)
def test_a_trial_has_the_digest_and_the_losses_of_before(
    make_spec: Callable[..., TrialSpec],
    run_trial: Callable[..., TrainOutcome],
    settings: Settings,
    balancer: dict[str, Any],
    train: dict[str, Any],
    digest: str,
    losses: tuple[float, float],
) -> None:
    spec = make_spec(balancer=balancer, train={"steps": 12, **train})
    assert spec.digest("c", "v") == digest
    run_trial(spec)
    loss_S = read_history(settings.trial_dir("0123456789abcdef")).scalars["loss"]
    assert loss_S[-2:].tolist() == pytest.approx(losses, rel=1e-5)
