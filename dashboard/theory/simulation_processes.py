"""Simulations that a page starts: each a process of its own, its folder, and what became of it.

The dashboard imports no worker: it runs `evenload simulate` and reads what that writes. A folder
below `<home>/simulations` is named by the digest of its spec, so the same question is asked once.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.simulation import SimulationSpec, load_simulation
from evenload.pipeline.spec.spec_file import sha256

COMMAND = Path(sys.executable).with_name("evenload")
MAX_SCORES = 1_500_000_000  # tokens x experts x steps x seeds x rules: minutes on two cores
TOLD = re.compile(r"^(?P<stream>.*): (?P<done>\d+) of (?P<total>\d+)$")
LOG_LINES = 12


class SimulationState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Standing(NamedTuple):
    """How far a simulation is."""

    state: SimulationState
    share: float  # of the steps played, 0 to 1
    note: str  # what it does now, or the end of its log


class RecordingSize(NamedTuple):
    steps: int
    layers: int
    tokens: int
    experts: int
    top_k: int


class Paths(NamedTuple):
    spec: Path
    result: Path
    log: Path
    history: Path


@dataclass
class Simulations:
    """The simulations of one home. One runs at a time: a dashboard is no compute service."""

    folder: Path
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def start(self, spec: SimulationSpec) -> str:
        """Starts a simulation unless it is done or running; returns its digest.

        Raises:   SpecError: it is too large for a page, another one runs, no command to run it
        """
        check_size(spec)
        digest = sha256(spec.model_dump(mode="json"))[:12]
        with self._lock:
            if self.standing(digest).state is SimulationState.FAILED:
                self._refuse_second()
                self._running[digest] = _spawn(spec, self._paths(digest))
        return digest

    def cancel(self, digest: str) -> None:
        process = self._running.get(digest)
        if process is not None and process.poll() is None:
            process.terminate()
            process.wait()

    def standing(self, digest: str) -> Standing:
        """Where it stands; FAILED also where it never began."""
        process, paths = self._running.get(digest), self._paths(digest)
        if process is not None and process.poll() is None:
            return _progress(paths.log)
        if _document(paths.result) is not None:
            return Standing(SimulationState.DONE, 1.0, "")
        if process is not None and process.returncode < 0:
            return Standing(SimulationState.FAILED, 0.0, "cancelled")
        return Standing(SimulationState.FAILED, 0.0, _tail(paths.log))

    def spec(self, digest: str) -> SimulationSpec:
        """Raises: SpecError: no such simulation"""
        if not digest.isalnum():
            raise SpecError(f"simulation={digest!r} is no simulation; start one")
        return load_simulation(self._paths(digest).spec)

    def result(self, digest: str) -> dict[str, Any]:
        """The document that the command printed.  Raises: SpecError: there is none"""
        document = _document(self._paths(digest).result)
        if document is None:
            raise SpecError(f"simulation={digest!r} has no result; start it again")
        return document

    def max_vio(self, digest: str) -> dict[tuple[str, str], NDArray[np.float32]]:
        """MaxVio of every step, mean over seeds, by (stream, rule)."""
        table = pq.read_table(
            self._paths(digest).history, columns=["stream", "rule", "step", "max_vio"]
        )
        frame = table.to_pandas()
        by_step = frame.groupby(["stream", "rule", "step"], observed=True, sort=True)["max_vio"]
        return {
            (str(stream), str(rule)): values.to_numpy(np.float32)
            for (stream, rule), values in by_step.mean().groupby(["stream", "rule"], observed=True)
        }

    def known(self) -> list[str]:
        """Digests, newest first."""
        specs = list(self.folder.glob("*/spec.yaml"))
        specs.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        return [path.parent.name for path in specs]

    def _paths(self, digest: str) -> Paths:
        folder = self.folder / digest
        names = ("spec.yaml", "result.json", "log", "history.parquet")
        return Paths(*(folder / name for name in names))

    def _refuse_second(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                raise SpecError("another simulation runs; wait for it or cancel it")


def check_size(spec: SimulationSpec) -> None:
    """Raises: SpecError: more work than a page may start"""
    runs = spec.seeds * len(spec.rules) * len(spec.streams)
    scores = spec.tokens * spec.num_experts * spec.steps * runs
    if scores > MAX_SCORES:
        raise SpecError(
            f"{scores / 1e9:.1f} billion scores are too many for this page (at most "
            f"{MAX_SCORES / 1e9:.1f}); take fewer tokens, steps or rules, or run "
            "`evenload simulate FILE` yourself"
        )


def recordings_below(home: Path) -> list[Path]:
    """Recorded router scores below the home, newest first."""
    found = [*home.glob("*.npz"), *(home / "recordings").glob("*.npz")]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def recording_size(path: Path) -> RecordingSize:
    """Reads the headers, not the scores.  Raises: SpecError: no recording"""
    try:
        with zipfile.ZipFile(path) as arrays, arrays.open("score_NLTE.npy") as file:
            np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
            shape, _, _ = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
            steps, layers, tokens, experts = shape
        with np.load(path) as content:
            return RecordingSize(steps, layers, tokens, experts, int(content["top_k"]))
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise SpecError(f"{path.name}: no recording of router scores ({error})") from None


def _spawn(spec: SimulationSpec, paths: Paths) -> subprocess.Popen[bytes]:
    if not COMMAND.is_file():
        raise SpecError("simulations need the workers: install them with `bash infra/install.sh`")
    paths.spec.parent.mkdir(parents=True, exist_ok=True)
    paths.spec.write_text(yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False))
    paths.result.unlink(missing_ok=True)
    arguments = [str(COMMAND), "simulate", str(paths.spec), "--json", "--check", "theory"]
    with paths.result.open("wb") as out, paths.log.open("wb") as log:
        return subprocess.Popen(
            [*arguments, "--out", str(paths.spec.parent)], stdout=out, stderr=log
        )


def _progress(log: Path) -> Standing:
    """Played steps first; after the last one the theory is checked, which tells no steps."""
    told = [found for line in _lines(log) if (found := TOLD.match(line))]
    if not told:
        return Standing(SimulationState.RUNNING, 0.0, "starting")
    done, total = int(told[-1]["done"]), int(told[-1]["total"])
    if done == total or total < 10:
        return Standing(SimulationState.RUNNING, 1.0, "checking the theory's statements")
    return Standing(
        SimulationState.RUNNING, done / total, f"step {done:,} of {total:,}, {told[-1]['stream']}"
    )


def _document(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None


def _tail(log: Path) -> str:
    return "\n".join(_lines(log)[-LOG_LINES:]) or "it never ran"


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.is_file() else []
