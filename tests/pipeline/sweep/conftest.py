from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.records import TrialRecord, TrialState
from pipeline.spec import TrialSpec

Row = Callable[..., TrialRecord]


@pytest.fixture
def row() -> Row:
    """A completed trial as the store gives it; keyword arguments override fields."""

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
