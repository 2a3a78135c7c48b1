"""Small real trials on a labelled synthetic corpus, and a store for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import evenload.workers.actors  # noqa: F401  sets environment variables before any test imports Ray
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.store.sweep_store import SweepStore
from tests.workers.actors.fake_actor import FakeTrainActor

BASE: dict[str, Any] = {
    "model": {
        "preset": "tiny",
        "vocab_size": 32,
        "num_layers": 2,
        "d_model": 16,
        "num_heads": 2,
        "d_dense": 32,
        "num_experts": 4,
        "d_expert": 8,
    },
    "data": {"kind": "synthetic", "vocab_size": 32, "num_tokens": 20_000},
    "balancer": {"kind": "sign", "step_size": 0.01},
    "train": {"steps": 6, "batch_sequences": 4, "seq_len": 16},
    "eval": {"tokens": 256, "batch_sequences": 4},
    "runtime": {"device": "cpu", "backend": "torch", "checkpoint_every": 10, "log_every": 10},
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, lease_seconds=30, heartbeat_seconds=0.2, check_identity=False)


@pytest.fixture
def store(settings: Settings, empty_store: Path) -> Iterator[SweepStore]:
    shutil.copy(empty_store, settings.root)
    store = SweepStore(settings.store_url)
    yield store
    store.close()


@pytest.fixture
def add_sweep(store: SweepStore) -> Callable[..., str]:
    """Stores one trial per value of an axis, with the digests t0, t1 and so on."""

    def add(values: list[Any], axis: str = "train.seed", workers: int = 1, **train: Any) -> str:
        runtime = BASE["runtime"] | {"workers": workers}
        base = BASE | {"train": BASE["train"] | train, "runtime": runtime}
        spec = SweepSpec(name="s", base=base, axes={axis: values})
        trials: list[tuple[str, TrialSpec]] = [
            (f"t{at}", trial) for at, trial in enumerate(spec.expand())
        ]
        return store.add_sweep(spec, trials)

    return add


@pytest.fixture
def make_actor(settings: Settings, store: SweepStore) -> Callable[..., FakeTrainActor]:
    return lambda behave: FakeTrainActor(settings, store, behave)
