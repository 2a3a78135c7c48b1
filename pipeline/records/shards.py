"""The raw record of a trial: the load and bias of every expert at every step, in parquet shards.

    <trial_dir>/expert_load/manifest.json               explains the counts
    <trial_dir>/expert_load/part-<first>-<last>.parquet one row per step and layer: load, bias [E]
    <trial_dir>/expert_load/eval-<step>.parquet         one row per layer: load [E] of an evaluation
    <trial_dir>/steps/part-<first>-<last>.parquet       one row per step: loss, seconds, ...
    <trial_dir>/evaluation/                             see evaluation_arrays.py
    <trial_dir>/provenance/                             see provenance.py

Shards hold counts and no ratios, so that a statistic can be corrected without training again. A
part is written under another name and then renamed, so readers see whole parts or none.

Shape suffixes: S steps, L expert layers, E experts.
"""

import json
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evenload.pipeline.figures.loads import History
from evenload.pipeline.records import evaluation_arrays, provenance
from evenload.pipeline.records.parquet_files import (
    DamagedFile,
    array,
    is_torn,
    lists,
    read_table,
    replace,
    write_table,
)
from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.spec.load_shape import RunOutline
from evenload.pipeline.spec.trial import TrialSpec

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SCHEMA_VERSION = 2
COUNTING_RULE = (
    "assignments of one optimizer step: all ranks, all micro-batches, no padding, training mode, "
    "recomputation not counted; layer is the index among the expert layers, from 0"
)
SCALARS = (
    "loss",
    "balance_loss",
    "grad_norm",
    "learning_rate",
    "tokens",
    "seconds",
    "max_vio_micro",
)
REPEATED = ("step", "layer")  # columns with few different values

Column = Literal["load", "bias"]


class Part(NamedTuple):
    """A shard: the steps `first` to `last`, both included."""

    first: int
    last: int
    path: Path


class LoadLogSink:
    """Writes the shards of one attempt below `trial_dir`. Every logged step is on disk at once.

    The newest part grows with every call until it holds `part_steps` steps or a checkpoint ends
    it. The first step that an attempt logs replaces all records from that step on, so a resumed
    attempt overwrites the steps after its checkpoint. An evaluation logs no step and replaces
    nothing. If the disk is full, up to `max_pending` steps are kept and written later; `dropped`
    counts the others.
    """

    def __init__(self, trial_dir: Path, part_steps: int = 50, max_pending: int = 2000) -> None:
        self.errors = self.dropped = 0
        self._trial_dir = trial_dir
        self._load_dir = trial_dir / "expert_load"
        self._steps_dir = trial_dir / "steps"
        self._part_steps = part_steps
        self._max_pending = max_pending
        self._open: list[StepRecord] = []  # the steps of the newest part
        self._written: tuple[int, int] | None = None  # first and last of them on disk
        self._replaces_from: int | None = None  # the first step that is logged
        self._has_dropped = False

    def start(self, run: RunIdentity) -> None:
        """Creates the folders, the manifest and the provenance.  Raises: OSError: not writable"""
        self.open(TrialSpec.model_validate(run.spec).outline)
        provenance.write(self._trial_dir, run)

    def open(self, outline: RunOutline) -> None:
        """Creates the folders and the manifest.  Raises: OSError: not writable"""
        self._load_dir.mkdir(parents=True, exist_ok=True)
        self._steps_dir.mkdir(parents=True, exist_ok=True)
        path = self._load_dir / MANIFEST
        replace(path, (json.dumps(_manifest(outline), indent=2) + "\n").encode())

    @property
    def unwritten(self) -> int:
        """Steps that wait because the disk cannot be written."""
        return self._not_on_disk(self._open)

    def _not_on_disk(self, records: Sequence[StepRecord]) -> int:
        last = self._written[1] if self._written else 0
        return sum(record.step > last for record in records)

    def log_steps(self, records: Sequence[StepRecord]) -> None:
        if not records:
            return
        if self._replaces_from is None:
            self._replaces_from = records[0].step
        self._open.extend(records)
        if len(self._open) >= self._part_steps:
            self._end_part()
        else:
            self._write_open_part()

    def log_eval(self, record: EvalRecord) -> None:
        columns = {
            "layer": np.arange(len(record.count_LE)),
            "load": lists(record.count_LE, pa.int64()),
        }
        try:
            write_table(self._load_dir / f"eval-{record.step:08d}.parquet", pa.table(columns))
            evaluation_arrays.write(self._trial_dir, record.step, record.detail)
        except OSError:
            self.errors += 1

    def checkpoint(self) -> None:
        self._end_part()

    def close(self) -> None:
        self._end_part()

    def _end_part(self) -> None:
        if self._open and self._write_open_part():
            self._open, self._written = [], None

    def _write_open_part(self) -> bool:
        steps = self._open[0].step, self._open[-1].step
        if steps == self._written:
            return True
        try:
            if not self._has_dropped:
                self._drop_from(self._replaces_from or steps[0])
                self._has_dropped = True
            write_table(self._load_dir / _part_name(*steps), _load_table(self._open), REPEATED)
            write_table(self._steps_dir / _part_name(*steps), _steps_table(self._open))
        except OSError:
            self.errors += 1
            self.dropped += self._not_on_disk(self._open[: -self._max_pending])
            self._open = self._open[-self._max_pending :]
            return False
        if self._written and self._written[0] == steps[0]:  # the same part, now longer
            (self._load_dir / _part_name(*self._written)).unlink(missing_ok=True)
            (self._steps_dir / _part_name(*self._written)).unlink(missing_ok=True)
        self._written = steps
        return True

    def _drop_from(self, step: int) -> None:
        """Deletes what is recorded from this step on."""
        for directory in (self._load_dir, self._steps_dir):
            for part in parts(directory, step):
                if part.first < step:
                    _cut(part, step)
                part.path.unlink(missing_ok=True)


def _manifest(outline: RunOutline) -> dict[str, Any]:
    return {
        **outline.shape.model_dump(mode="json"),
        "tokens_per_step": outline.tokens,
        "counting_rule": COUNTING_RULE,
        "schema_version": SCHEMA_VERSION,
    }


def read_history(
    trial_dir: Path,
    *,
    first: int = 1,
    last: int | None = None,
    columns: Collection[Column] = ("load", "bias"),
) -> History:
    """The steps `first` to `last`, both included, as arrays with each step once.

    The history is empty if nothing is recorded yet. It ends with the newest part on disk.
    """
    chunks = list(iter_history(trial_dir, first=first, last=last, columns=columns))
    if not chunks:
        scalars = {name: np.zeros(0) for name in SCALARS}
        count_SLE, bias_SLE = np.zeros((0, 0, 0), np.int32), np.zeros((0, 0, 0), np.float32)
        return History(np.zeros(0, np.int64), count_SLE, bias_SLE, scalars)
    return History(
        np.concatenate([chunk.step_S for chunk in chunks]),
        np.concatenate([chunk.count_SLE for chunk in chunks]),
        np.concatenate([chunk.bias_SLE for chunk in chunks]),
        {name: np.concatenate([chunk.scalars[name] for chunk in chunks]) for name in SCALARS},
    )


def iter_history(
    trial_dir: Path,
    *,
    first: int = 1,
    last: int | None = None,
    columns: Collection[Column] = ("load", "bias"),
) -> Iterator[History]:
    """Like `read_history`, but part by part, because long runs of large models fill the memory."""
    for part in parts(trial_dir / "expert_load", first, last):
        if part.last < first:
            continue
        try:
            steps = read_table(trial_dir / "steps" / part.path.name)
            load = read_table(part.path, list(columns))
        except FileNotFoundError:
            continue  # a running attempt has just replaced it
        except DamagedFile as error:
            logger.warning("%s, left out: %s", trial_dir, error)
            continue
        if not len(steps) or len(load) % len(steps):
            continue  # an empty file, or the two are of different attempts
        chunk = _chunk(steps, load, columns)
        start, stop = np.searchsorted(chunk.step_S, [first, (last or part.last) + 1])
        yield chunk.of(slice(start, stop))
        first = max(first, part.last + 1)  # a grown part overlaps its shorter version


def torn_files(trial_dir: Path) -> list[Part]:
    """The files of steps whose end is missing, in order."""
    folders = (trial_dir / "expert_load", trial_dir / "steps")
    return [part for folder in folders for part in parts(folder) if is_torn(part.path)]


@contextmanager
def counts_on_disk(trial_dir: Path) -> Iterator[NDArray[np.int32]]:
    """All counts (S, L, E) in a temporary file that is mapped into memory."""
    shape: tuple[int, ...] = (0, 0, 0)
    with TemporaryFile(dir=trial_dir) as file:
        for chunk in iter_history(trial_dir, columns=["load"]):
            file.write(np.ascontiguousarray(chunk.count_SLE, np.int32).data)
            shape = (shape[0] + len(chunk.step_S), *chunk.count_SLE.shape[1:])
        file.flush()
        yield np.memmap(file, np.int32, "r", shape=shape) if shape[0] else np.zeros(shape, np.int32)


def read_scalars(trial_dir: Path) -> dict[str, NDArray[np.float64]]:
    """The columns `step` and SCALARS, read without the counts."""
    history = read_history(trial_dir, columns=())
    return {"step": history.step_S.astype(np.float64), **history.scalars}


def read_eval_counts(trial_dir: Path) -> NDArray[np.int64] | None:
    """Counts (L, E) of the newest evaluation, summed over its tokens; None if there is none."""
    newest = max((trial_dir / "expert_load").glob("eval-*.parquet"), default=None)
    return None if newest is None else array(read_table(newest).column("load"))


def _cut(part: Part, step: int) -> None:
    """Writes the steps of a part before `step` as a part; none if a crash has torn it."""
    try:
        kept = pq.read_table(part.path, filters=[("step", "<", step)])
    except pa.ArrowInvalid:
        return
    write_table(part.path.with_name(_part_name(part.first, step - 1)), kept)


def _part_name(first: int, last: int) -> str:
    return f"part-{first:08d}-{last:08d}.parquet"


def parts(directory: Path, first: int = 1, last: int | None = None) -> list[Part]:
    """The parts in a directory that contain some of these steps, in order."""
    try:
        names = os.listdir(directory)  # there may be thousands, and glob takes ten times as long
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if name.startswith("part-") and name.endswith(".parquet"):
            start, stop = (int(step) for step in name[5:-8].split("-"))
            if stop >= first and (last is None or start <= last):
                found.append(Part(start, stop, directory / name))
    return sorted(found)


def newest_checkpoint(trial_dir: Path) -> int:
    """The step after which an attempt would continue; 0 is the beginning."""
    found = (trial_dir / "checkpoints").glob("step-*.pt")
    return max((int(path.stem.removeprefix("step-")) for path in found), default=0)


def _chunk(steps: pa.Table, load: pa.Table, columns: Collection[Column]) -> History:
    S = len(steps)
    empty_SLE = np.zeros((S, 0, 0))
    arrays = {name: array(load.column(name)).reshape(S, len(load) // S, -1) for name in columns}
    return History(
        steps.column("step").to_numpy(),
        arrays.get("load", empty_SLE.astype(np.int32)),
        arrays.get("bias", empty_SLE.astype(np.float32)),
        {name: steps.column(name).to_numpy() for name in SCALARS},
    )


def _load_table(records: Sequence[StepRecord]) -> pa.Table:
    L = len(records[0].count_LE)
    columns = {
        "step": np.repeat([record.step for record in records], L),
        "layer": np.tile(np.arange(L, dtype=np.int32), len(records)),
        "load": lists(np.concatenate([record.count_LE for record in records]), pa.int32()),
        "bias": lists(np.concatenate([record.bias_LE for record in records]), pa.float32()),
    }
    return pa.table(columns)


def _steps_table(records: Sequence[StepRecord]) -> pa.Table:
    values = {name: [float(getattr(record, name)) for record in records] for name in SCALARS}
    return pa.table({"step": np.array([record.step for record in records]), **values})
