"""Keeps the pooled history of a run beside its shards, so that readers open long runs quickly."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evenload.pipeline.figures.loads import History
from evenload.pipeline.records.load_series import FILE, LoadSeries, read_series
from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.records.shards import SCALARS
from evenload.pipeline.spec.load_shape import RunOutline
from evenload.pipeline.spec.trial import TrialSpec

# Readers then need at most 1 % of the shards, or 10 of them.
LEAST_STEPS, LEAST_BINS = 500, 4


class PooledLoadSink:
    """Pools the steps of one attempt.

    It must come after the sink that writes the shards: a resumed attempt begins with the shards of
    its predecessor, up to the step where it resumes.
    """

    def __init__(self, trial_dir: Path, outline: RunOutline | None = None) -> None:
        self.errors = 0
        self._trial_dir = trial_dir
        self._outline = outline  # None: `start` finds it in the trial's spec
        self._series: LoadSeries | None = None
        self._written_step = 0

    def start(self, run: RunIdentity) -> None:
        self._outline = TrialSpec.model_validate(run.spec).outline

    def log_steps(self, records: Sequence[StepRecord]) -> None:
        if not records:
            return
        if self._series is None:
            self._series = self._resumed_from(records[0].step - 1)
        self._series.extend(_history(records))
        due = max(LEAST_STEPS, LEAST_BINS * self._series.bin_steps)
        if self._series.last_step - self._written_step >= due:
            self._write(self._series)

    def log_eval(self, record: EvalRecord) -> None: ...

    def checkpoint(self) -> None: ...

    def close(self) -> None:
        if self._series is not None:
            self._write(self._series)

    def _resumed_from(self, last: int) -> LoadSeries:
        """The history up to step `last`. The file loses later steps, which are trained again."""
        assert self._outline is not None, "start() comes first"
        series = read_series(self._trial_dir, self._outline, last=last)
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
