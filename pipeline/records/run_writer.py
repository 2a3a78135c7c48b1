"""Writes recorded runs. What attaches to a model and what imports a record both use it."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from evenload.pipeline.processes import is_running, process_id
from evenload.pipeline.records.parquet_files import replace
from evenload.pipeline.records.recorded_runs import FILE, FOLDER, RecordedRun, recorded_runs
from evenload.pipeline.records.run import Biases, Counts, StepRecord
from evenload.pipeline.records.series_sink import PooledLoadSink
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.spec.balancers import BalancerSpec
from evenload.pipeline.spec.load_shape import LoadShape

PENDING_BYTES = 2**26  # of loads and biases that wait for a disk that cannot be written


class RunWriter:
    """Writes one recorded run.

        writer = RunWriter.create(home, "my-run", source="attach", shape=shape, balancer=rule)
        writer.write([recorded_step(1, count_LE, bias_LE, loss=2.5)])
        writer.close()

    `create` and `resume` raise OSError if nothing can be written. `write` and `close` do not: steps
    that cannot be written are kept, up to PENDING_BYTES of them, and written later; what does not
    fit is dropped and counted in `run.dropped_steps`. `unwritten` says how many are waiting.
    Steps ascend, but may have gaps. Readers see a step as soon as `write` returns.
    One process writes a run, and one thread at a time.
    """

    def __init__(self, run: RecordedRun) -> None:
        self.run = run
        pending = pending_steps(run.shape.num_layers, run.shape.num_experts)
        self._shards = LoadLogSink(run.folder, max_pending=pending)
        self._pooled = PooledLoadSink(run.folder, run.outline)
        self._errors, self._dropped = run.errors, run.dropped_steps
        self._shards.open(run.outline)
        self._save(run)

    @classmethod
    def create(
        cls,
        home: Path,
        name: str,
        *,
        source: str,
        shape: LoadShape,
        balancer: BalancerSpec | None = None,
        unit: str = "",
        planned_steps: int | None = None,
    ) -> Self:
        """A new run, with an id of its own.

        Args:
            source:   what records it: `attach`, or `import` and a format
            shape:    of all its layers; layers of another kind are another run
            balancer: the rule that moves the biases; None: not known
            unit:     of a bias
        """
        now = datetime.now(UTC)
        folder = _new_folder(home / FOLDER, name)
        run = RecordedRun(
            run_id=folder.name,
            name=name,
            source=source,
            shape=shape,
            balancer=balancer,
            unit=unit,
            planned_steps=planned_steps,
            writer=process_id(),
            started=now,
            updated=now,
            folder=folder,
        )
        return cls(run)

    @classmethod
    def resume(cls, home: Path, step: int, name: str, **about: Any) -> Self:
        """The newest run like this that ended at `step` - 1 or later; else a new one.

        Its steps from `step` on are replaced when they come again. With step 1 it is a new run. A
        run that another process of this machine still writes is left alone.
        Args:     about: as `create` takes it
        """
        for run in recorded_runs(home) if step > 1 else []:
            same = all(getattr(run, key) == about.get(key) for key in ("shape", "balancer"))
            went_on = run.last_step >= step - 1 and not _has_writer(run)
            if same and went_on and (run.name, run.source) == (name, about["source"]):
                planned = about.get("planned_steps") or run.planned_steps
                update = {"ended": None, "planned_steps": planned, "writer": process_id()}
                return cls(run.model_copy(update=update))
        return cls.create(home, name, **about)

    @property
    def unwritten(self) -> int:
        """Steps that wait for a disk that cannot be written."""
        return self._shards.unwritten

    def write(self, records: Sequence[StepRecord], dropped: int = 0) -> None:
        """Adds steps.  Args: dropped: steps before them that the caller could not keep"""
        self._dropped += dropped
        if not records:
            return
        try:
            if not self.run.folder.is_dir():  # somebody has deleted it
                self._shards.open(self.run.outline)
            self._shards.log_steps(records)
            self._pooled.log_steps(records)
        except OSError:
            self._errors += 1
        seconds = [record.seconds for record in records if not math.isnan(record.seconds)]
        told = any(not math.isnan(record.loss) for record in records)
        self._update(
            last_step=records[-1].step,
            updated=datetime.now(UTC),
            step_seconds=float(np.mean(seconds)) if seconds else self.run.step_seconds,
            has_loss=self.run.has_loss or told,
        )

    def close(self) -> None:
        """Writes what is left, and that the run has ended."""
        for sink in (self._shards, self._pooled):
            sink.close()
        self._update(ended=datetime.now(UTC))

    def _update(self, **changed: Any) -> None:
        failed = self._shards.errors + self._pooled.errors
        counts = {
            "errors": self._errors + failed,
            "dropped_steps": self._dropped + self._shards.dropped,
        }
        try:
            self._save(self.run.model_copy(update=changed | counts))
        except OSError:
            self._errors += 1

    def _save(self, run: RecordedRun) -> None:
        self.run = run
        content = run.model_dump_json(indent=1, exclude={"folder"}) + "\n"
        replace(run.folder / FILE, content.encode())


def pending_steps(num_layers: int, num_experts: int) -> int:
    """How many steps may wait for the disk, such that they fit into PENDING_BYTES."""
    return max(10, min(2000, PENDING_BYTES // (8 * num_layers * num_experts)))


def recorded_step(
    step: int,
    count_LE: Counts,
    bias_LE: Biases | None = None,
    *,
    loss: float = math.nan,
    learning_rate: float = math.nan,
    grad_norm: float = math.nan,
    seconds: float = math.nan,
) -> StepRecord:
    """A step of a run that evenload did not train; figures that nobody told are NaN.

    Args:     step: from 1.  bias_LE: None: zeros
    """
    none_LE = np.zeros(count_LE.shape, np.float32)
    return StepRecord(
        step=step,
        loss=loss,
        balance_loss=math.nan,
        grad_norm=grad_norm,
        learning_rate=learning_rate,
        tokens=0,
        seconds=seconds,
        count_LE=count_LE.astype(np.int32),
        bias_LE=none_LE if bias_LE is None else bias_LE,
        max_vio_micro=math.nan,
    )


def _has_writer(run: RecordedRun) -> bool:
    """Whether another process of this machine may still write the run."""
    return run.ended is None and run.writer != process_id() and bool(is_running(run.writer))


def _new_folder(parent: Path, name: str) -> Path:
    """Makes a folder that no other run has, also if two processes ask at once."""
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "run"
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
