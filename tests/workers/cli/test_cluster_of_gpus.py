"""`evenload sweep run --address`: what `auto` means there is a matter of the cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.actors import ray_cluster, ray_executor


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The resources of a cluster that this host reaches, and on which nothing runs."""
    resources: dict[str, float] = {"CPU": 8.0}
    monkeypatch.setattr(ray_cluster, "connect", lambda address: False)
    monkeypatch.setattr(ray_cluster.ray, "cluster_resources", lambda: resources)

    def start(*_: object, **__: object) -> None:
        raise SpecError("nothing runs here")

    monkeypatch.setattr(ray_executor, "RayExecutor", start)
    return resources


@pytest.mark.parametrize(
    ("gpus", "device", "precision", "said"),
    [
        (2.0, "cuda", "bfloat16", "means bfloat16 on the GPU"),
        (0.0, "cpu", "float32", "no CUDA device"),
    ],
)
def test_a_head_without_a_gpu_lists_the_trials_of_its_cluster(
    gpus: float,
    device: str,
    precision: str,
    said: str,
    cluster: dict[str, float],
    here: Any,
    sweep: Callable[..., dict[str, Any]],
) -> None:
    cluster["GPU"] = gpus
    document = sweep()
    del document["base"]["runtime"]["device"]
    ended = here("sweep", "run", here.write("s.yaml", document), "--address", "10.0.0.1:6379")
    assert "nothing runs here" in ended.err
    assert said in ended.err
    store = SweepStore(Settings(home=here.folder / ".evenload").store_url)
    specs = [trial.spec for one in store.sweeps() for trial in store.trials(one.sweep_id)]
    assert {spec["runtime"]["device"] for spec in specs} == {device}
    assert {spec["train"]["precision"] for spec in specs} == {precision}
