from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenload.dashboard.theory import simulation_processes
from evenload.dashboard.theory.simulation_processes import (
    Simulations,
    SimulationState,
    SimulationStatus,
    recording_size,
    recordings_below,
)
from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.simulation import SimulationSpec


def _spec(**changes: Any) -> SimulationSpec:
    small = {
        "tokens": 64,
        "num_experts": 8,
        "top_k": 2,
        "steps": 20,
        "seeds": 1,
        "streams": {"still": {"kind": "gaussian"}},
        "rules": [{"kind": "none"}, {"kind": "self_tuned"}],
    }
    return SimulationSpec.model_validate(small | changes)


def _ended(all_: Simulations, digest: str) -> SimulationStatus:
    for _ in range(600):
        status = all_.status(digest)
        if status.state is not SimulationState.RUNNING:
            return status
        time.sleep(0.1)
    raise TimeoutError(digest)


def test_simulation_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    all_ = Simulations(tmp_path / "simulations")
    digest = all_.start(_spec())
    with pytest.raises(SpecError, match="another simulation runs"):
        all_.start(_spec(seeds=2))
    assert _ended(all_, digest).state is SimulationState.DONE
    assert [row["rule"] for row in all_.result(digest)["rows"]] == ["none", "self_tuned"]
    vio = all_.max_vio(digest)
    assert list(vio) == [("still", "none"), ("still", "self_tuned")]
    assert len(vio["still", "none"]) == 20
    assert all_.known() == [digest]
    assert Simulations(tmp_path / "simulations").start(_spec()) == digest  # not run again
    assert all_.spec(digest) == _spec()


def test_cancelled_simulation_can_start_again(tmp_path: Path) -> None:
    all_ = Simulations(tmp_path / "simulations")
    digest = all_.start(_spec(steps=1000, tokens=4096))
    all_.cancel(digest)
    assert all_.status(digest) == (SimulationState.FAILED, 0.0, "cancelled")
    assert all_.start(_spec(steps=1000, tokens=4096)) == digest
    assert all_.status(digest).state is SimulationState.RUNNING
    all_.cancel(digest)


def test_failure_shows_the_end_of_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "abc123"
    folder.mkdir()
    (folder / "result.json").write_text("")
    (folder / "log").write_text("\n".join(f"line {number}" for number in range(50)))
    status = Simulations(tmp_path).status("abc123")
    assert status.state is SimulationState.FAILED
    assert status.note.splitlines() == [f"line {number}" for number in range(38, 50)]


@pytest.mark.parametrize(
    ("line", "share", "note"),
    [
        ("", 0.0, "starting"),
        ("a: b: 50 of 200\n", 0.25, "step 50 of 200, a: b"),
        ("still: 200 of 200\n", 1.0, "testing the theory"),
    ],
)
def test_progress_is_read_from_the_log(tmp_path: Path, line: str, share: float, note: str) -> None:
    (tmp_path / "log").write_text(line)
    status = simulation_processes._progress(tmp_path / "log")
    assert status == (SimulationState.RUNNING, share, note)


def test_too_large_simulation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="fewer tokens"):
        Simulations(tmp_path).start(_spec(tokens=10**6, num_experts=128, steps=1000))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("digest", ["../secrets", "unknown0"])
def test_unknown_simulation_is_an_error(tmp_path: Path, digest: str) -> None:
    with pytest.raises(SpecError):
        Simulations(tmp_path).spec(digest)


def test_size_of_a_recording_is_read_from_its_headers(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    path = tmp_path / "recordings" / "scores.npz"
    scores = np.zeros((7, 3, 16, 8), np.float32)
    np.savez_compressed(path, score_NLTE=scores, bias_NLE=np.zeros((7, 3, 8)), top_k=2)
    assert recordings_below(tmp_path) == [path]
    (tmp_path / "runs" / "theirs").mkdir(parents=True)
    of_run = tmp_path / "runs" / "theirs" / "scores.npz"
    of_run.write_bytes(path.read_bytes())
    assert set(recordings_below(tmp_path)) == {path, of_run}
    assert recording_size(path) == (7, 3, 16, 8, 2)
    path.write_text("no archive")
    with pytest.raises(SpecError, match=r"scores\.npz is not a recording"):
        recording_size(path)
