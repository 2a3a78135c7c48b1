"""How much of its machine a training uses, sampled while steps are logged, without a thread.

<trial_dir>/system/attempt-<n>.parquet   one row per sample: the fields of `Sample`
"""

import importlib.util
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray

from evenload.pipeline.records.parquet_files import DamagedFile, read_table, write_table
from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord

SAMPLE_SECONDS = 10.0
WRITE_SECONDS = 60.0
GIB = 1024.0**3
FOLDER = "system"


class Sample(NamedTuple):
    """Figures of the training process and its host. Figures of a GPU are NaN without one.

    Over several GPUs, utilisation is a mean, and memory and power are sums.
    """

    step: int  # the newest logged step
    unix_seconds: float
    processor_percent: float  # of this process since the last sample; 100 is one busy core
    memory_gib: float  # resident memory of this process
    host_load: float  # number of runnable processes, mean over a minute
    host_memory_percent: float  # memory in use
    gpu_percent: float
    gpu_memory_gib: float
    gpu_watts: float


class SystemSink:
    """Takes and writes the samples of one attempt."""

    def __init__(
        self,
        trial_dir: Path,
        sample_seconds: float = SAMPLE_SECONDS,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        self.errors = 0
        self._trial_dir = trial_dir
        self._sample_seconds = sample_seconds
        self._write_seconds = write_seconds
        self._samples: list[Sample] = []
        self._written_at = 0.0

    def start(self, run: RunIdentity) -> None:
        self._path = self._trial_dir / FOLDER / f"attempt-{run.attempt:03}.parquet"
        self._gpus = _gpus()
        self._looked_at, self._busy_seconds = time.monotonic(), time.process_time()

    def log_steps(self, records: Sequence[StepRecord]) -> None:
        is_due = time.monotonic() - self._looked_at >= self._sample_seconds
        if records and (is_due or not self._samples):
            self._samples.append(self._look(records[-1].step))
            if time.monotonic() - self._written_at >= self._write_seconds:
                self._write()

    def log_eval(self, record: EvalRecord) -> None: ...

    def checkpoint(self) -> None: ...

    def close(self) -> None:
        if self._samples:
            self._write()

    def _look(self, step: int) -> Sample:
        now, busy_seconds = time.monotonic(), time.process_time()
        wall = max(now - self._looked_at, 1e-9)
        percent = 100 * (busy_seconds - self._busy_seconds) / wall
        self._looked_at, self._busy_seconds = now, busy_seconds
        return Sample(
            step,
            time.time(),
            percent,
            psutil.Process().memory_info().rss / GIB,
            os.getloadavg()[0],
            psutil.virtual_memory().percent,
            *_gpu_figures(self._gpus),
        )

    def _write(self) -> None:
        columns = {
            name: list(values)
            for name, values in zip(Sample._fields, zip(*self._samples, strict=True), strict=True)
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_table(self._path, pa.table(columns))
        except OSError:
            self.errors += 1
        else:
            self._written_at = time.monotonic()


def read_samples(trial_dir: Path) -> dict[str, NDArray[Any]]:
    """The samples of all attempts as columns, in order of time; the columns may be empty."""
    tables = []
    for path in sorted((trial_dir / FOLDER).glob("attempt-*.parquet")):
        try:
            tables.append(read_table(path))
        except (FileNotFoundError, DamagedFile):
            continue  # just replaced, or torn by a crash
    if not tables:
        return {name: np.zeros(0) for name in Sample._fields}
    table = pa.concat_tables(tables).sort_by("unix_seconds")
    return {name: table.column(name).to_numpy() for name in Sample._fields}


def _gpus() -> list[Any]:
    """NVML's handles of the GPUs that this process may use; none if NVML is missing."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "" or importlib.util.find_spec("pynvml") is None:
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        names = visible.split(",") if visible else [str(index) for index in range(count)]
        return [
            pynvml.nvmlDeviceGetHandleByIndex(int(name))
            if name.isdigit()
            else pynvml.nvmlDeviceGetHandleByUUID(name)
            for name in names
        ]
    except pynvml.NVMLError:
        return []  # no driver, no GPU


def _gpu_figures(gpus: Sequence[Any]) -> tuple[float, float, float]:
    if not gpus:
        return math.nan, math.nan, math.nan
    import pynvml

    try:
        percent = [pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu for gpu in gpus]
        used = [pynvml.nvmlDeviceGetMemoryInfo(gpu).used for gpu in gpus]
        milliwatts = [pynvml.nvmlDeviceGetPowerUsage(gpu) for gpu in gpus]
    except pynvml.NVMLError:
        return math.nan, math.nan, math.nan  # NVML has no figures for parts of a GPU, for instance
    return float(np.mean(percent)), sum(used) / GIB, sum(milliwatts) / 1000
