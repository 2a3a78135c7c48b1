from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from evenload.workers.cli import main, session
from tests.small_model import SMALL_MODEL

SWEEP: dict[str, Any] = {
    "name": "small",
    "base": {
        "model": SMALL_MODEL,
        "data": {"kind": "synthetic", "num_tokens": 60_000, "vocab_size": 32, "num_domains": 2},
        "train": {"steps": 24, "batch_sequences": 4, "seq_len": 32},
        "balancer": {"kind": "none"},
        "eval": {"tokens": 1024},
        "runtime": {"device": "cpu", "log_every": 4, "checkpoint_every": 8},
    },
    "axes": {"balancer": [{"kind": "none"}, {"kind": "sign", "step_size": 0.01}]},
}


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class Command:
    """Runs the installed `evenload` in an empty directory with its own home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("evenload")), *arguments],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def __call__(self, *arguments: str) -> Ended:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return Ended(process.returncode, out, err)

    def write(self, name: str, content: Any) -> str:
        (self.folder / name).write_text(yaml.safe_dump(content))
        return name


@pytest.fixture
def evenload(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path)
    yield command
    for process in command.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs the same command in this process, which is faster."""
    command = Command(tmp_path)

    def run(*arguments: str) -> Ended:
        monkeypatch.chdir(tmp_path)
        session.documents.clear()
        monkeypatch.setattr(sys, "argv", ["evenload", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return Ended(int(exit_.value.code or 0), captured.out, captured.err)

    monkeypatch.setattr(Command, "__call__", lambda _, *arguments: run(*arguments))
    return command


@pytest.fixture
def sweep() -> Callable[..., dict[str, Any]]:
    """Makes a sweep of two short trials; keyword arguments override parts of its base."""

    def make(axes: dict[str, list[Any]] | None = None, **changes: dict[str, Any]) -> dict[str, Any]:
        base = {key: part | changes.get(key, {}) for key, part in SWEEP["base"].items()}
        return SWEEP | {"base": base, "axes": axes or SWEEP["axes"]}

    return make
