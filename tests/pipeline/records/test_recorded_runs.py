from __future__ import annotations

import math
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.figures.loads import max_vio_floor
from evenload.pipeline.processes import process_id
from evenload.pipeline.records import parquet_files, run_writer
from evenload.pipeline.records.load_series import read_series
from evenload.pipeline.records.recorded_runs import (
    FILE,
    STALE_SECONDS,
    RunState,
    recorded_run,
    recorded_runs,
)
from evenload.pipeline.records.run import StepRecord
from evenload.pipeline.records.run_writer import RunWriter, recorded_step
from evenload.pipeline.records.shards import read_history
from evenload.pipeline.spec.balancers import parse_balancer
from evenload.pipeline.spec.load_shape import LoadShape

SHAPE = LoadShape(layers=("3", "5"), num_experts=4, top_k=2)
TOKENS = 8
SIGN = parse_balancer({"kind": "sign", "step_size": 0.01})
ABOUT: dict[str, Any] = {"source": "attach", "shape": SHAPE, "balancer": SIGN}


def _count(step: int) -> np.ndarray[Any, Any]:
    return np.array([[4, 4, 4, 4], [6 + step % 3, 4, 4, 2 - step % 3]])


def _step(step: int, **told: float) -> StepRecord:
    return recorded_step(step, _count(step), np.full((2, 4), step, np.float32), **told)


def _steps(first: int, last: int) -> list[StepRecord]:
    return [_step(step) for step in range(first, last + 1)]


def _recorded(home: Path) -> list[int]:
    return [int(step) for step in read_history(recorded_runs(home)[0].folder).step_S]


def test_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, "My run!", unit="logit", planned_steps=9, **ABOUT)
    writer.write([_step(1, loss=2.0, seconds=3.0)])
    writer.write(_steps(2, 4))
    run = recorded_run(tmp_path, "My run!")
    assert (run.run_id, run.last_step, run.unit, run.planned_steps) == ("my-run", 4, "logit", 9)
    assert (run.balancer, run.shape, run.has_loss, run.step_seconds) == (SIGN, SHAPE, True, 3.0)
    history = read_history(run.folder)
    np.testing.assert_array_equal(history.count_SLE, [_count(step) for step in range(1, 5)])
    assert history.bias_SLE[:, 0, 0].tolist() == [1, 2, 3, 4]
    assert history.scalars["loss"][0] == 2.0
    assert math.isnan(history.scalars["loss"][1])
    series = read_series(run.folder, run.outline)
    assert (series.last_step, series.tokens_per_step) == (4, TOKENS)


def test_figures_are_those_of_the_last_quarter(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, "x", **ABOUT)
    assert all(math.isnan(value) for value in writer.run.figures().values())
    writer.write(_steps(1, 8))
    found = recorded_run(tmp_path, "x").figures()
    vio = np.mean([_count(step)[1].max() / 4 - 1 for step in (7, 8)]) / 2
    assert found["max_vio"] == pytest.approx(vio)
    assert found["max_vio_floor"] == max_vio_floor(TOKENS, 4, 2)
    assert found["max_vio_ratio"] == pytest.approx(vio / found["max_vio_floor"])
    assert found["idle_frac"] == pytest.approx(1 / 16)  # step 8: one of four, in one of two layers


def test_run_is_live_until_it_ends_or_is_silent_for_long(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, "x", **ABOUT)
    writer.write([_step(1, seconds=60.0)])
    run = recorded_run(tmp_path, "x")
    assert run.state() is RunState.LIVE
    assert run.state(run.updated + timedelta(seconds=9 * 60)) is RunState.LIVE  # its steps are long
    assert run.state(run.updated + timedelta(seconds=11 * 60)) is RunState.STALE
    writer.write([_step(2, seconds=0.1)])
    run = recorded_run(tmp_path, "x")
    assert run.state(run.updated + timedelta(seconds=STALE_SECONDS + 1)) is RunState.STALE
    writer.close()
    assert recorded_run(tmp_path, "x").state() is RunState.ENDED


def test_second_run_of_a_name_has_its_own_id_and_the_newest_is_found_by_name(
    tmp_path: Path,
) -> None:
    first = RunWriter.create(tmp_path, "a b", **ABOUT)
    second = RunWriter.create(tmp_path, "a b", **ABOUT)
    assert (first.run.run_id, second.run.run_id) == ("a-b", "a-b-2")
    assert [run.run_id for run in recorded_runs(tmp_path)] == ["a-b-2", "a-b"]
    assert recorded_run(tmp_path, "a b").run_id == "a-b-2"
    assert recorded_run(tmp_path, "a-b").run_id == "a-b"
    with pytest.raises(SpecError, match="'c' is not recorded"):
        recorded_run(tmp_path, "c")


def test_stopped_run_goes_on_and_replaces_the_steps_that_come_again(tmp_path: Path) -> None:
    first = RunWriter.create(tmp_path, "x", **ABOUT)
    first.write(_steps(1, 30))
    first.close()
    again = RunWriter.resume(tmp_path, 21, "x", **ABOUT)
    assert again.run.run_id == "x"
    again.write([recorded_step(21, _count(0)), *_steps(22, 25)])
    assert _recorded(tmp_path) == list(range(1, 26))
    run = recorded_run(tmp_path, "x")
    assert read_history(run.folder).bias_SLE[20].max() == 0
    assert run.state() is RunState.LIVE
    assert read_series(run.folder, run.outline).last_step == 25


@pytest.mark.parametrize(
    "other",
    [
        {"balancer": None},
        {"shape": SHAPE.model_copy(update={"top_k": 1})},
        {"source": "import"},
        {},  # another process writes it
    ],
)
def test_other_runs_are_not_continued(
    tmp_path: Path, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunWriter.create(tmp_path, "x", **ABOUT)
    if not other:
        monkeypatch.setattr(run_writer, "is_running", lambda writer: True)
        first.run = first.run.model_copy(update={"writer": "another:process"})
    first.write(_steps(1, 30))
    if other:
        first.close()
    assert RunWriter.resume(tmp_path, 21, "x", **ABOUT | other).run.run_id == "x-2"


def test_run_of_a_killed_process_goes_on(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    first = RunWriter.create(tmp_path, "x", **ABOUT)
    first.run = first.run.model_copy(
        update={"writer": f"{process_id().rpartition(':')[0]}:{dead.pid}"}
    )
    first.write(_steps(1, 30))
    assert RunWriter.resume(tmp_path, 31, "x", **ABOUT).run.run_id == "x"
    assert RunWriter.resume(tmp_path, 1, "x", **ABOUT).run.run_id == "x-2"


def test_deleted_folder_is_made_again(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, "x", **ABOUT)
    writer.write(_steps(1, 3))
    shutil.rmtree(tmp_path / "runs")
    writer.write(_steps(4, 5))
    assert _recorded(tmp_path) == [1, 2, 3, 4, 5]


def test_steps_that_a_full_disk_drops_are_counted_and_leave_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_writer, "PENDING_BYTES", 10 * 8 * 2 * 4)
    writer = RunWriter.create(tmp_path, "x", **ABOUT)
    writer.write(_steps(1, 3))
    with monkeypatch.context() as patch:
        patch.setattr(parquet_files, "replace", _no_space)
        patch.setattr(run_writer, "replace", _no_space)
        for step in range(4, 31):
            writer.write([_step(step)])
        assert writer.unwritten == 10
    writer.write([_step(31)])
    assert writer.unwritten == 0
    run = recorded_run(tmp_path, "x")
    assert _recorded(tmp_path) == [*range(1, 4), *range(21, 32)]
    assert (run.dropped_steps, run.last_step) == (17, 31)
    assert run.errors > 20


def test_folders_that_are_no_runs_are_left_out(tmp_path: Path) -> None:
    assert recorded_runs(tmp_path) == []
    RunWriter.create(tmp_path, "x", **ABOUT)
    torn = RunWriter.create(tmp_path, "y", **ABOUT).run.folder / FILE
    torn.write_text(torn.read_text()[:40])
    (tmp_path / "runs" / "empty").mkdir()
    assert [run.run_id for run in recorded_runs(tmp_path)] == ["x"]


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")
