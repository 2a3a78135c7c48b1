"""Processes that can be killed by SIGKILL and started again; one of them is a PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest


def until(holds: Callable[[], Any], seconds: float, what: str, every: float = 0.1) -> Any:
    """Repeats `holds` until it is true; returns its value.  Raises: AssertionError: too late"""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := holds():
            return answer
        time.sleep(every)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Service:
    """One process with its children.

    Args:     is_ready: is called after a start until it returns true
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        environment: Mapping[str, str],
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name = name
        self._command = [str(part) for part in command]
        self._log = folder / f"{name}.log"
        self._environment = dict(environment)
        self._is_ready = is_ready
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 120.0) -> None:
        """Starts the process, again if it fails, and returns once it is ready."""
        deadline = time.monotonic() + seconds
        while not self._started():
            assert time.monotonic() < deadline, f"{self.name}: {self.log_tail()}"
            time.sleep(0.5)

    def _started(self) -> bool:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._is_ready():
                return True
            time.sleep(0.1)
        self.kill()  # it has ended or is too slow, and two of them must never run at once
        return False

    def tree(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        assert self._process is not None, f"{self.name} was not started"
        try:
            top = psutil.Process(self._process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Sends SIGKILL to the whole tree, as if its host had crashed."""
        for process in self.tree():
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        assert self._process is not None
        self._process.wait()

    def ended(self, seconds: float) -> int:
        """Waits for the process to end by itself; its exit code.  Raises: TimeoutExpired"""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.wait(seconds)

    def end(self, seconds: float = 30.0) -> None:
        """Sends SIGTERM, and then SIGKILL to processes that are left."""
        if self._process is None:
            return
        tree = self.tree()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        for process in tree:
            if process.is_running():
                process.kill()
        self._process.wait()

    def log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else "no log"


class Postgres:
    """A PostgreSQL server on a Unix socket, without port or password.

    Raises:   pytest.skip.Exception: this machine has no PostgreSQL, or no user that may run it
    """

    def __init__(self, folder: Path) -> None:
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not binaries:
            pytest.skip("no PostgreSQL server in /usr/lib/postgresql")
        self.folder = folder
        user = as_postgres()
        if user:
            shutil.chown(folder, "postgres", "postgres")
        options = ["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--auth=trust"]
        initdb = [binaries[-1] / "initdb", "-D", folder / "data", "-U", "postgres", *options]
        subprocess.run([*user, *initdb], check=True, capture_output=True)
        server = [binaries[-1] / "postgres", "-D", folder / "data", "-k", folder, "-h", "", "-F"]
        logs = folder.parent
        self.service = Service("database", [*user, *server], logs, os.environ, self._answers)

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@/postgres?host={self.folder}"

    def _answers(self) -> bool:
        try:
            psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            return False
        return True


def as_postgres() -> list[str]:
    """The command that switches to the user postgres, because PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL needs a user other than root and setpriv is missing")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
