"""A machine that is too busy for the time that Ray gives its node."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from evenload.workers.actors import ray_cluster
from evenload.workers.cli.problems import problem_of

SLOW = Exception("The current node timed out during startup. This could happen because")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[subprocess.Popen[bytes]]:
    """Every start leaves a process; only the third start succeeds."""
    left: list[subprocess.Popen[bytes]] = []

    def init(*_: Any, _temp_dir: str, **__: Any) -> None:
        script = [sys.executable, "-c", "import time; time.sleep(60)", _temp_dir]
        left.append(subprocess.Popen(script))
        if len(left) < 3:
            raise SLOW

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray_cluster.atexit, "register", lambda *_: None)
    return left


def test_a_slow_start_is_repeated_and_leaves_no_process(
    started: list[subprocess.Popen[bytes]],
) -> None:
    assert ray_cluster.connect(None)
    assert [one.wait(10) for one in started[:2]] == [-9, -9]
    assert started[2].poll() is None
    started[2].kill()
    started[2].wait()


def test_a_machine_that_stays_busy_is_named_with_the_remedy(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "STARTS", 2)
    with pytest.raises(ConnectionError, match="2 attempts") as caught:
        ray_cluster.connect(None)
    text, code = problem_of(caught.value)
    assert code == 1
    assert text.endswith("run the command again when the machine has less to do")
