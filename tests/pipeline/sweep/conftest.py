from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep import coordinator as coordinator_module
from tests.pipeline.sweep.trial_records import completed_trial

Row = Callable[..., TrialRecord]


@pytest.fixture
def row() -> Row:
    """Makes the record of a completed trial; keyword arguments override fields."""

    def make(
        spec: TrialSpec, loss: float = 3.0, max_vio: float = 0.5, **changes: Any
    ) -> TrialRecord:
        content = spec.model_dump(mode="json")
        digest = spec.digest("corpus", "core")
        return completed_trial(digest, spec.balancer.label, content, loss, max_vio, **changes)

    return make


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Observers are called in every round, however long reading takes."""
    monkeypatch.setattr(coordinator_module, "OBSERVED_SHARE", math.inf)


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Iterator[SweepStore]:
    store = SweepStore(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'store.db')}")
    yield store
    store.close()


@pytest.fixture
def add_sweep(store: SweepStore) -> Callable[..., str]:
    def add(count: int, name: str = "t") -> str:
        base = {
            "model": {"preset": "tiny"},
            "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
            "balancer": {"kind": "sign"},
        }
        spec = SweepSpec(name=name, base=base, axes={"train.seed": list(range(count))})
        trials = [(f"{name}{at}", trial) for at, trial in enumerate(spec.expand())]
        return store.add_sweep(spec, trials)

    return add
