from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialRecord, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep import coordinator as coordinator_module

Row = Callable[..., TrialRecord]


@pytest.fixture
def row() -> Row:
    """Makes the record of a completed trial; keyword arguments override fields."""

    def make(
        spec: TrialSpec, loss: float = 3.0, max_vio: float = 0.5, **changes: Any
    ) -> TrialRecord:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        content = spec.model_dump(mode="json")
        completed = TrialRecord(
            digest=spec.digest("corpus", "core"),
            label=spec.balancer.label,
            spec=content,
            state=TrialState.COMPLETED,
            attempt=1,
            failures=0,
            progress=None,
            result={
                "val_bits_per_byte": loss,
                "max_vio": max_vio,
                "max_vio_floor": 0.1,
                "idle_frac": 0.0,
                "effective_util": 1 / (1 + max_vio),
            },
            error=None,
            worker=None,
            run_id=None,
            checkpoint_uri=None,
            lease_until=None,
            heartbeat_at=None,
            created_at=now,
            started_at=now,
            finished_at=now,
        )
        return replace(completed, **changes)

    return make


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Observers are called in every round, however long reading takes."""
    monkeypatch.setattr(coordinator_module, "OBSERVED_SHARE", math.inf)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SweepStore]:
    store = SweepStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def add_sweep(store: SweepStore) -> Callable[[int], str]:
    def add(count: int) -> str:
        base = {
            "model": {"preset": "tiny"},
            "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
            "balancer": {"kind": "sign"},
        }
        spec = SweepSpec(name="s", base=base, axes={"train.seed": list(range(count))})
        trials = [(f"t{at}", trial) for at, trial in enumerate(spec.expand())]
        return store.add_sweep(spec, trials)

    return add
