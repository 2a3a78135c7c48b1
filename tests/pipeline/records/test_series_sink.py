from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from evenload.pipeline.records import load_series, series_sink
from evenload.pipeline.records.load_series import FILE, LoadSeries, read_series
from evenload.pipeline.records.run import RunIdentity, StepRecord
from evenload.pipeline.records.series_sink import PooledLoadSink
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.spec.trial import TrialSpec

Record = Callable[..., StepRecord]
Identity = Callable[..., RunIdentity]


@pytest.fixture(autouse=True)
def frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_sink, "LEAST_STEPS", 20)


class Attempt:
    """The two sinks that write a trial's loads, in their order."""

    def __init__(self, folder: Path, run: RunIdentity) -> None:
        self.shards, self.pooled = LoadLogSink(folder), PooledLoadSink(folder)
        for sink in (self.shards, self.pooled):
            sink.start(run)

    def log(self, records: Sequence[StepRecord], checkpoint: int | None = None) -> None:
        for record in records:
            for sink in (self.shards, self.pooled):
                sink.log_steps([record])
                if record.step == checkpoint:
                    sink.checkpoint()

    def close(self) -> None:
        for sink in (self.shards, self.pooled):
            sink.close()


def _pooled_steps(folder: Path, spec: TrialSpec, monkeypatch: pytest.MonkeyPatch) -> int:
    """The last step of the pooled file, without newer shards."""
    with monkeypatch.context() as patch:
        patch.setattr(load_series, "catch_up", lambda *_: None)
        return read_series(folder, spec.outline).last_step


def _vio(folder: Path, spec: TrialSpec) -> tuple[list[int], list[list[float]]]:
    series = read_series(folder, spec.outline)
    return series.step_B.tolist(), series.max_vio_BL.tolist()


def test_file_follows_the_run_and_the_reader_adds_newer_shards(
    tmp_path: Path,
    spec: TrialSpec,
    identity: Identity,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempt = Attempt(tmp_path, identity())
    attempt.log([record(step) for step in range(1, 56)])
    assert _pooled_steps(tmp_path, spec, monkeypatch) == 40
    assert read_series(tmp_path, spec.outline).last_step == 55
    attempt.close()
    assert _pooled_steps(tmp_path, spec, monkeypatch) == 55


def test_resumed_attempt_replaces_the_steps_after_the_checkpoint(
    tmp_path: Path,
    spec: TrialSpec,
    identity: Identity,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = Attempt(tmp_path, identity())
    first.log([record(step) for step in range(1, 62)], checkpoint=50)
    again = Attempt(tmp_path, identity(attempt=2, resumed_from_step=50))
    spiked = record(51).count_LE[:, ::-1].copy()
    again.log([record(51, count_LE=spiked)])
    assert _pooled_steps(tmp_path, spec, monkeypatch) == 50
    again.log([record(step) for step in range(52, 101)])
    again.close()
    assert _pooled_steps(tmp_path, spec, monkeypatch) == 100
    pooled = _vio(tmp_path, spec)
    (tmp_path / "expert_load" / FILE).unlink()
    assert pooled == _vio(tmp_path, spec)
    assert pooled[0] == list(range(1, 101))


def test_attempt_that_starts_over_leaves_nothing_of_the_old_file(
    tmp_path: Path, spec: TrialSpec, identity: Identity, record: Record
) -> None:
    first = Attempt(tmp_path, identity())
    first.log([record(step) for step in range(1, 62)])
    again = Attempt(tmp_path, identity(attempt=2))
    again.log([record(1)])
    assert not (tmp_path / "expert_load" / FILE).exists()
    assert read_series(tmp_path, spec.outline).last_step == 1


def test_attempt_that_logs_no_step_writes_nothing(tmp_path: Path, identity: Identity) -> None:
    attempt = Attempt(tmp_path, identity())
    attempt.close()
    assert not (tmp_path / "expert_load" / FILE).exists()


def test_full_disk_is_counted_and_readers_fall_back_to_the_shards(
    tmp_path: Path,
    spec: TrialSpec,
    identity: Identity,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempt = Attempt(tmp_path, identity())
    monkeypatch.setattr(LoadSeries, "write", _no_space)
    attempt.log([record(step) for step in range(1, 31)])
    attempt.close()
    assert attempt.pooled.errors > 0
    series = read_series(tmp_path, spec.outline)
    assert series.last_step == 30
    np.testing.assert_array_equal(series.step_B, np.arange(1, 31))


def _no_space(series: LoadSeries, trial_dir: Path) -> None:
    raise OSError(28, "No space left on device")
