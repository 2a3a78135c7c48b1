"""Records of completed trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from evenload.pipeline.states import TrialRecord, TrialState


def completed_trial(
    digest: str, label: str, spec: Mapping[str, Any], loss: float, max_vio: float, **changes: Any
) -> TrialRecord:
    """Makes a record; `changes` override its fields."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    record = TrialRecord(
        digest=digest,
        label=label,
        spec=spec,
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
    return replace(record, **changes)
