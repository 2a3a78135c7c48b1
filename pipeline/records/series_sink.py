"""Keeps the reduced history of a run beside its shards, so that a reader opens any run at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evenload.pipeline.figures.loads import History
from evenload.pipeline.records.load_series import FILE, LoadSeries, read_series
from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.records.shards import SCALARS
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialState

# What a reader then reads from the shards: at most 1 % of the run, or 10 shards.
LEAST_STEPS, LEAST_BINS = 500, 4


class PooledLoadSink:
    """One attempt's. It stands behind the sink that writes the shards, which a resumed attempt
    reads back up to where it goes on.
    """

    def __init__(self, trial_dir: Path) -> None:
        self.errors = 0
        self._trial_dir = trial_dir
        self._series: LoadSeries | None = None
        self._written_step = 0

    def start(self, run: RunIdentity) -> None:
        self._spec = TrialSpec.model_validate(run.spec)

    def log_steps(self, records: Sequence[StepRecord]) -> None:
        if not records:
            return
        if self._series is None:
            self._series = self._go_on_from(records[0].step - 1)
        self._series.extend(_history(records))
        due = max(LEAST_STEPS, LEAST_BINS * self._series.bin_steps)
        if self._series.last_step - self._written_step >= due:
            self._write(self._series)

    def log_eval(self, record: EvalRecord) -> None: ...

    def checkpoint(self, step: int, uri: str) -> None: ...

    def close(self, state: TrialState, result: dict[str, Any], error: str | None = None) -> None:
        if self._series is not None:
            self._write(self._series)

    def _go_on_from(self, last: int) -> LoadSeries:
        """What an earlier attempt pooled of steps that are trained again is replaced at once."""
        series = read_series(self._trial_dir, self._spec, last=last)
        (self._trial_dir / "expert_load" / FILE).unlink(missing_ok=True)
        if not series.is_empty:
            self._write(series)
        return series

    def _write(self, series: LoadSeries) -> None:
        try:
            series.write(self._trial_dir)
        except OSError:
            self.errors += 1
        else:
            self._written_step = series.last_step


def _history(records: Sequence[StepRecord]) -> History:
    return History(
        np.array([record.step for record in records]),
        np.stack([record.count_LE for record in records]),
        np.stack([record.bias_LE for record in records]),
        {name: np.array([float(getattr(record, name)) for record in records]) for name in SCALARS},
    )
