"""The first hour on a GPU goes on where the last call ended, and says what did not run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.benchmarks import gpu_hour
from infra.benchmarks.gpu_hour_parts import Part


def good(_: Path) -> Iterator[tuple[str, Any]]:
    yield "speed", 3


def without_a_gpu(_: Path) -> Iterator[tuple[str, Any]]:
    raise gpu_hour.CannotRun("needs a GPU")
    yield


def broken(_: Path) -> Iterator[tuple[str, Any]]:
    yield "first", 1
    raise RuntimeError("an illegal address")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs parts in this process; the names of those that ran."""
    ran: list[str] = []

    def run(command: list[str], **_: object) -> None:
        ran.append(command[-1])
        try:
            gpu_hour._run_inside(command[-1], tmp_path)
        except RuntimeError:
            return

    monkeypatch.setattr(gpu_hour.subprocess, "run", run)
    parts = {"good": Part(good, 5), "none": Part(without_a_gpu, 5), "broken": Part(broken, 5)}
    monkeypatch.setattr(gpu_hour, "PARTS", parts)
    return ran


def hour(folder: Path, *parts: str, seconds: float = 60) -> int:
    return gpu_hour._run_parts(folder, list(parts), time.monotonic() + seconds)


def test_each_part_leaves_its_figures_or_its_reason(tmp_path: Path, calls: list[str]) -> None:
    assert hour(tmp_path) == 1
    found = {name: gpu_hour._read(tmp_path, name) for name in ("good", "none", "broken")}
    assert found["good"]["state"] == "done"
    assert found["good"]["speed"] == 3
    assert (found["none"]["state"], found["none"]["why"]) == ("cannot run", "needs a GPU")
    assert found["broken"]["state"] == "failed"
    assert found["broken"]["first"] == 1, "what was measured before is kept"
    assert found["broken"]["why"] == "RuntimeError: an illegal address"


def test_a_call_goes_on_and_tries_again_what_failed_once(tmp_path: Path, calls: list[str]) -> None:
    assert hour(tmp_path, seconds=3) == 3, "only one part is started without time for it"
    assert calls == ["good"]
    hour(tmp_path)
    hour(tmp_path)
    hour(tmp_path)
    assert calls == ["good", "none", "broken", "broken"]
    hour(tmp_path, "good")
    assert calls[-1] == "good", "a part that is named runs again"


def test_the_parts_are_predicted_to_take_less_than_a_lease_and_each_fits_into_a_call() -> None:
    assert all(part.seconds < gpu_hour.CALL_SECONDS for part in gpu_hour.PARTS.values())
    assert sum(part.seconds for part in gpu_hour.PARTS.values()) < 30 * 60
