"""Runs simulations for the theory page. Each has its own process and folder.

The dashboard must not import workers, so it runs `evenload simulate` and reads the files of that
command. The folder of a simulation below `<home>/simulations` is named by the digest of its spec,
so equal simulations run only once.
"""

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
from numpy.typing import NDArray

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.recorded_runs import FOLDER
from evenload.pipeline.records.scores import FILE
from evenload.pipeline.spec.simulation import SimulationSpec, load_simulation
from evenload.pipeline.spec.spec_file import sha256
from evenload.pipeline.spec.yaml_text import yaml_of

COMMAND = Path(sys.executable).with_name("evenload")
MAX_SCORES = 1_500_000_000  # tokens x experts x steps x seeds x rules; minutes on two cores
PROGRESS = re.compile(r"^(?P<stream>.*): (?P<done>\d+) of (?P<total>\d+)$")
LOG_LINES = 12


class SimulationState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class SimulationStatus(NamedTuple):
    state: SimulationState
    share: float  # share of the simulated steps, 0 to 1
    note: str  # what the simulation does now, or the end of its log


class Size(NamedTuple):
    """The size of a simulation, by the keys of its spec."""

    steps: int
    seeds: int  # the layers of a recording act as seeds
    tokens: int
    num_experts: int
    top_k: int


class Paths(NamedTuple):
    spec: Path
    result: Path
    log: Path
    history: Path


@dataclass
class Simulations:
    """The simulations of one home. Only one runs at a time, to limit the load of the dashboard."""

    folder: Path
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def start(self, spec: SimulationSpec) -> str:
        """Starts a simulation unless it is done or running; returns its digest.

        Raises:   SpecError: it is too large, another one runs, or `evenload` is not installed
        """
        check_size(spec)
        digest = sha256(spec.model_dump(mode="json"))[:12]
        with self._lock:
            if self.status(digest).state is SimulationState.FAILED:
                if any(process.poll() is None for process in self._running.values()):
                    raise SpecError("another simulation runs; wait until it ends, or cancel it")
                self._running[digest] = _spawn(spec, self._paths(digest))
        return digest

    def cancel(self, digest: str) -> None:
        process = self._running.get(digest)
        if process is not None and process.poll() is None:
            process.terminate()
            process.wait()

    def status(self, digest: str) -> SimulationStatus:
        """The status of a simulation; FAILED also if it never started."""
        process, paths = self._running.get(digest), self._paths(digest)
        if process is not None and process.poll() is None:
            return _progress(paths.log)
        if _document(paths.result) is not None:
            return SimulationStatus(SimulationState.DONE, 1.0, "")
        if process is not None and process.returncode < 0:
            return SimulationStatus(SimulationState.FAILED, 0.0, "cancelled")
        tail = "\n".join(_lines(paths.log)[-LOG_LINES:]) or "the simulation never started"
        return SimulationStatus(SimulationState.FAILED, 0.0, tail)

    def spec(self, digest: str) -> SimulationSpec:
        """The spec of a simulation.  Raises: SpecError: it is unknown"""
        if not digest.isalnum():
            raise SpecError(f"simulation={digest!r} is unknown; start one")
        return load_simulation(self._paths(digest).spec)

    def result(self, digest: str) -> dict[str, Any]:
        """The JSON document of the command.  Raises: SpecError: there is none"""
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
        """The digests of all simulations, newest first."""
        specs = list(self.folder.glob("*/spec.yaml"))
        specs.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        return [path.parent.name for path in specs]

    def _paths(self, digest: str) -> Paths:
        folder = self.folder / digest
        names = ("spec.yaml", "result.json", "log", "history.parquet")
        return Paths(*(folder / name for name in names))


def check_size(spec: SimulationSpec) -> None:
    """Checks the amount of work.  Raises: SpecError: it is more than a page may start"""
    runs = spec.seeds * len(spec.rules) * len(spec.streams)
    scores = spec.tokens * spec.num_experts * spec.steps * runs
    if scores > MAX_SCORES:
        raise SpecError(
            f"{scores / 1e9:.1f} billion scores are too many for this page (at most "
            f"{MAX_SCORES / 1e9:.1f}); choose fewer tokens, steps or rules, or run "
            "`evenload simulate FILE` yourself"
        )


def recordings_below(home: Path) -> list[Path]:
    """Recorded router scores below the home, those of recorded runs included, newest first."""
    found = [*home.glob("*.npz"), *home.glob("recordings/*.npz"), *home.glob(f"{FOLDER}/*/{FILE}")]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def recording_size(path: Path) -> Size:
    """The size of a recording, from its headers.  Raises: SpecError: it is not a recording"""
    try:
        with zipfile.ZipFile(path) as arrays, arrays.open("score_NLTE.npy") as file:
            np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
            shape, _, _ = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
        with np.load(path) as content:
            return Size._make([*shape, int(content["top_k"])])
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise SpecError(f"{path.name} is not a recording of router scores ({error})") from None


def _spawn(spec: SimulationSpec, paths: Paths) -> subprocess.Popen[bytes]:
    if not COMMAND.is_file():
        raise SpecError("simulations need the workers: install them with `bash infra/install.sh`")
    paths.spec.parent.mkdir(parents=True, exist_ok=True)
    paths.spec.write_text(yaml_of(spec.model_dump(mode="json")))
    paths.result.unlink(missing_ok=True)
    arguments = [str(COMMAND), "simulate", str(paths.spec), "--json", "--check", "theory"]
    with paths.result.open("wb") as out, paths.log.open("wb") as log:
        return subprocess.Popen(
            [*arguments, "--out", str(paths.spec.parent)], stdout=out, stderr=log
        )


def _progress(log: Path) -> SimulationStatus:
    """The last progress in the log. It ends before the theory is tested."""
    reports = [found for line in _lines(log) if (found := PROGRESS.match(line))]
    if not reports:
        return SimulationStatus(SimulationState.RUNNING, 0.0, "starting")
    done, total = int(reports[-1]["done"]), int(reports[-1]["total"])
    if done == total or total < 10:
        return SimulationStatus(SimulationState.RUNNING, 1.0, "testing the theory")
    note = f"step {done:,} of {total:,}, {reports[-1]['stream']}"
    return SimulationStatus(SimulationState.RUNNING, done / total, note)


def _document(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.is_file() else []
