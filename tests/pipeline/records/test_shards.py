from __future__ import annotations

import dataclasses
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from evenload.pipeline.records import parquet_files
from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.records.shards import (
    LoadLogSink,
    counts_on_disk,
    iter_history,
    parts,
    read_eval_counts,
    read_history,
    read_scalars,
)

Record = Callable[..., StepRecord]
Identity = Callable[..., RunIdentity]


def _write(
    folder: Path, run: RunIdentity, record: Record, steps: range, checkpoint: int | None = None
) -> LoadLogSink:
    sink = LoadLogSink(folder)
    sink.start(run)
    for step in steps:
        sink.log_steps([record(step)])
        if step == checkpoint:
            sink.checkpoint()
    return sink


def _names(folder: Path) -> list[str]:
    return [part.path.name for part in parts(folder)]


def test_every_value_is_read_as_it_was_written(
    tmp_path: Path, identity: Identity, record: Record
) -> None:
    _write(tmp_path, identity(), record, range(1, 121))
    history = read_history(tmp_path)
    records = [record(step) for step in range(1, 121)]
    assert history.step_S.tolist() == list(range(1, 121))
    np.testing.assert_array_equal(history.count_SLE, [r.count_LE for r in records])
    np.testing.assert_array_equal(history.bias_SLE, [r.bias_LE for r in records])
    assert history.count_SLE.dtype == np.int32
    assert history.bias_SLE.dtype == np.float32
    assert history.scalars["loss"].tolist() == [r.loss for r in records]
    assert history.scalars["max_vio_micro"].tolist() == [0.75] * 120


def test_all_counts_of_a_run_are_mapped_and_not_held(
    tmp_path: Path, identity: Identity, record: Record
) -> None:
    sink, wide = LoadLogSink(tmp_path), np.ones((8, 4096), np.int32)
    sink.start(identity())
    one = dataclasses.replace(record(1), count_LE=wide, bias_LE=wide.astype(np.float32))
    for first in range(1, 251, 50):
        steps = range(first, first + 50)
        sink.log_steps([dataclasses.replace(one, step=step) for step in steps])
    tracemalloc.start()
    with counts_on_disk(tmp_path) as count_SLE:
        assert count_SLE.shape == (250, 8, 4096)
        assert count_SLE[-1].sum() == wide.sum()
        _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < count_SLE.nbytes / 4
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_parts_are_named_by_their_steps_and_end_at_fifty_and_at_checkpoints(
    tmp_path: Path, identity: Identity, record: Record
) -> None:
    sink = _write(tmp_path, identity(), record, range(1, 121), checkpoint=70)
    expected = ["00000001-00000050", "00000051-00000070", "00000071-00000120"]
    assert _names(tmp_path / "expert_load") == [f"part-{steps}.parquet" for steps in expected]
    assert _names(tmp_path / "steps") == _names(tmp_path / "expert_load")
    assert sink.errors == 0


def test_the_parquet_schema_is_the_documented_one(
    tmp_path: Path, identity: Identity, record: Record
) -> None:
    _write(tmp_path, identity(), record, range(1, 4))
    schema = pq.read_schema(parts(tmp_path / "expert_load")[0].path)
    assert str(schema.field("load").type) == "fixed_size_list<element: int32>[16]"
    assert str(schema.field("bias").type) == "fixed_size_list<element: float>[16]"
    table = pq.read_table(parts(tmp_path / "expert_load")[0].path)
    assert table.column("step").to_pylist() == [1, 1, 2, 2, 3, 3]
    assert table.column("layer").to_pylist() == [0, 1, 0, 1, 0, 1]


def test_logged_steps_are_on_disk_at_once(
    tmp_path: Path, identity: Identity, record: Record
) -> None:
    _write(tmp_path, identity(), record, range(1, 8))
    assert read_history(tmp_path).step_S.tolist() == list(range(1, 8))


def test_resumed_attempt_overwrites_the_steps_after_the_checkpoint(
    tmp_path: Path, identity: Identity, record: Record
) -> None:
    _write(tmp_path, identity(), record, range(1, 31), checkpoint=20)
    sink = LoadLogSink(tmp_path)
    sink.start(identity(attempt=2, resumed_from_step=20))
    sink.log_steps([record(step, loss=-1.0) for step in range(21, 26)])
    history = read_history(tmp_path)
    assert history.step_S.tolist() == list(range(1, 26))
    assert (history.scalars["loss"] == -1.0).sum() == 5


def test_attempt_that_logs_no_step_removes_nothing(
    tmp_path: Path, identity: Identity, record: Record, evaluation: EvalRecord
) -> None:
    _write(tmp_path, identity(), record, range(1, 31))
    sink = LoadLogSink(tmp_path)
    sink.start(identity(attempt=2))
    sink.log_eval(evaluation)
    sink.close()
    assert len(read_history(tmp_path).step_S) == 30
    np.testing.assert_array_equal(read_eval_counts(tmp_path), evaluation.count_LE)


def test_steps_and_columns_can_be_chosen(
    tmp_path: Path, identity: Identity, record: Record
) -> None:
    _write(tmp_path, identity(), record, range(1, 121))
    history = read_history(tmp_path, first=45, last=55, columns=["load"])
    assert history.step_S.tolist() == list(range(45, 56))
    expected = [record(step).count_LE for step in range(45, 56)]
    np.testing.assert_array_equal(history.count_SLE, expected)
    assert history.bias_SLE.shape == (11, 0, 0)
    assert read_scalars(tmp_path)["step"].tolist() == list(range(1, 121))


def test_part_that_grew_while_being_read_counts_each_step_once(
    tmp_path: Path, identity: Identity, record: Record
) -> None:
    _write(tmp_path, identity(), record, range(1, 11))
    short = parts(tmp_path / "expert_load")[0].path, parts(tmp_path / "steps")[0].path
    kept = [path.read_bytes() for path in short]
    _write(tmp_path, identity(), record, range(1, 21))
    for path, content in zip(short, kept, strict=True):
        path.write_bytes(content)
    chunks = [chunk.step_S.tolist() for chunk in iter_history(tmp_path)]
    assert chunks == [list(range(1, 11)), list(range(11, 21))]


def test_nothing_recorded_reads_as_no_steps(tmp_path: Path) -> None:
    history = read_history(tmp_path / "missing")
    assert history.step_S.tolist() == []
    assert history.count_SLE.shape == (0, 0, 0)
    assert read_eval_counts(tmp_path) is None


def test_half_written_shards_are_left_out_of_the_history(
    tmp_path: Path, identity: Identity, record: Record
) -> None:
    _write(tmp_path, identity(), record, range(1, 111))
    parts(tmp_path / "steps")[2].path.unlink()
    parts(tmp_path / "expert_load")[1].path.write_bytes(b"PAR1 torn")
    (tmp_path / "expert_load" / ".part-00000101-00000150.parquet.7.tmp").write_bytes(b"PAR1")
    assert read_history(tmp_path).step_S.tolist() == list(range(1, 51))


def test_manifest_explains_the_counts(tmp_path: Path, identity: Identity, record: Record) -> None:
    _write(tmp_path, identity(), record, range(1, 2))
    manifest = json.loads((tmp_path / "expert_load" / "manifest.json").read_text())
    assert "no padding" in manifest.pop("counting_rule")
    assert manifest == {
        "num_experts": 16,
        "layers": ["1", "2"],
        "top_k": 2,
        "tokens_per_step": 128,
        "schema_version": 2,
    }


def test_full_disk_is_counted_and_the_steps_are_written_later(
    tmp_path: Path, identity: Identity, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = _write(tmp_path, identity(), record, range(1, 11))
    with monkeypatch.context() as patch:
        patch.setattr(parquet_files, "replace", _no_space)
        sink.log_steps([record(step) for step in range(11, 61)])
        sink.checkpoint()
    assert sink.errors == 2
    assert read_history(tmp_path).step_S.tolist() == list(range(1, 11))
    sink.close()
    assert read_history(tmp_path).step_S.tolist() == list(range(1, 61))


def test_long_outage_drops_the_oldest_unwritten_steps_and_none_on_disk(
    tmp_path: Path, identity: Identity, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = LoadLogSink(tmp_path, max_pending=20)
    sink.start(identity())
    sink.log_steps([record(step) for step in range(1, 11)])
    with monkeypatch.context() as patch:
        patch.setattr(parquet_files, "replace", _no_space)
        sink.log_steps([record(step) for step in range(11, 61)])
    sink.close()
    assert read_history(tmp_path).step_S.tolist() == [*range(1, 11), *range(41, 61)]


def _no_space(path: Path, content: bytes) -> None:
    raise OSError(28, "No space left on device")
