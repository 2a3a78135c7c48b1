from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from evenload.pipeline.records.run import RunIdentity, StepRecord
from evenload.pipeline.records.system_sink import Sample, SystemSink, read_samples

Record = Callable[..., StepRecord]
Identity = Callable[..., RunIdentity]


def _busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_busy_process_shows_its_processor_and_memory(
    tmp_path: Path, identity: Identity, record: Record
) -> None:
    sink = SystemSink(tmp_path, sample_seconds=0)
    sink.start(identity())
    sink.log_steps([record(1)])
    _busy(0.05)
    sink.log_steps([record(2), record(3)])
    time.sleep(0.1)
    sink.log_steps([record(4)])
    sink.close()
    samples = read_samples(tmp_path)
    assert samples["step"].tolist() == [1, 3, 4]
    _, busy, idle = samples["processor_percent"]
    assert 0 <= idle < busy
    assert idle < 50
    assert (samples["memory_gib"] > 0.01).all()
    assert ((samples["host_memory_percent"] > 0) & (samples["host_memory_percent"] < 100)).all()
    assert sink.errors == 0


def test_samples_are_seconds_apart_and_the_first_comes_at_once(
    tmp_path: Path, identity: Identity, record: Record
) -> None:
    sink = SystemSink(tmp_path, sample_seconds=60)
    sink.start(identity())
    for step in range(1, 30):
        sink.log_steps([record(step)])
    sink.close()
    assert read_samples(tmp_path)["step"].tolist() == [1]


def test_attempts_follow_each_other_in_time(
    tmp_path: Path, identity: Identity, record: Record
) -> None:
    for attempt, steps in ((1, (1, 2, 3)), (2, (2, 3))):
        sink = SystemSink(tmp_path, sample_seconds=0)
        sink.start(identity(attempt=attempt))
        for step in steps:
            sink.log_steps([record(step)])
        sink.close()
    samples = read_samples(tmp_path)
    assert samples["step"].tolist() == [1, 2, 3, 2, 3]
    assert (np.diff(samples["unix_seconds"]) >= 0).all()


def test_nothing_sampled_reads_as_nothing(tmp_path: Path, identity: Identity) -> None:
    sink = SystemSink(tmp_path)
    sink.start(identity())
    sink.close()
    assert not (tmp_path / "system").exists()
    assert {len(values) for values in read_samples(tmp_path).values()} == {0}
    assert read_samples(tmp_path).keys() == set(Sample._fields)


def test_full_disk_is_counted(
    tmp_path: Path, identity: Identity, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "system").write_text("a file where the folder should be")
    sink = SystemSink(tmp_path)
    sink.start(identity())
    sink.log_steps([record(1)])
    sink.close()
    assert sink.errors == 2


def test_gpus_are_those_that_the_process_sees(
    tmp_path: Path, identity: Identity, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _two_of_four_gpus())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-1")
    sink = SystemSink(tmp_path)
    sink.start(identity())
    sink.log_steps([record(1)])
    sink.close()
    samples = read_samples(tmp_path)
    assert samples["gpu_percent"].tolist() == [20]
    assert samples["gpu_memory_gib"].tolist() == [4]
    assert samples["gpu_watts"].tolist() == [400]


def test_hosts_without_gpu_have_no_such_figures(
    tmp_path: Path, identity: Identity, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    sink = SystemSink(tmp_path)
    sink.start(identity())
    sink.log_steps([record(1)])
    sink.close()
    assert np.isnan(read_samples(tmp_path)["gpu_watts"]).all()


def _two_of_four_gpus() -> ModuleType:
    """NVML's functions over four GPUs; GPU n is busy to 10 n percent."""
    nvml = ModuleType("pynvml")
    nvml.__spec__ = SimpleNamespace(name="pynvml")  # type: ignore[assignment]
    vars(nvml).update(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 4,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda name: int(name.removeprefix("GPU-")),
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=10 * gpu),
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=gpu * 1024**3),
        nvmlDeviceGetPowerUsage=lambda gpu: gpu * 100_000,
    )
    return nvml
