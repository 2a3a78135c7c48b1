from __future__ import annotations

import pytest
import ray
from ray.exceptions import ActorDiedError

from evenload.pipeline.states import WorkKind
from evenload.workers.actors import ray_executor
from evenload.workers.actors.ray_executor import Need, _Worker


def test_an_actor_that_died_before_it_told_its_node_does_not_end_the_executor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its node drains; that the actor is dead is told by `gone`."""

    def dead(_: object) -> None:
        raise ActorDiedError

    monkeypatch.setattr(ray, "wait", lambda references, timeout: (references, []))
    monkeypatch.setattr(ray, "get", dead)
    worker = _Worker(actor=None, need=Need(WorkKind.TRAIN, "cpu", 1), node_id="reference")
    assert ray_executor._node_of(worker) is None
