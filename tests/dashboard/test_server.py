"""The dashboard's server as `evenload dashboard` starts it: names, requests to others, its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.services import free_port, until

pytestmark = pytest.mark.slow
# Writes every address that the process and its children ask for, except for this machine's.
WATCH = """
import os, socket
def watched(name):
    original = getattr(socket.socket, name)
    def call(self, address, *more):
        here = ("127.", "::1", "localhost")
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(here):
            with open(os.environ["WATCHED"], "a") as file:
                print(name, address, file=file)
            raise OSError("no network")
        return original(self, address, *more)
    setattr(socket.socket, name, call)
watched("connect"); watched("connect_ex")
"""


class Served(NamedTuple):
    port: int
    process: subprocess.Popen[bytes]
    asked: Path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    port, asked = free_port(), tmp_path / "asked"
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = ["dashboard", "--port", str(port), "--address", "0.0.0.0", "--home", str(tmp_path)]
    script = "from evenload.workers.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command],
        env=os.environ | {"PYTHONPATH": paths, "WATCHED": str(asked)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: _listens(port), 60, "the dashboard listens")
        yield Served(port, process, asked)
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _handshake(port: int, host: str, origin: str) -> int:
    """The status of the answer to the request for a WebSocket."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        request = (
            f"GET /_stcore/stream HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        connection.sendall(request.encode())
        return int(connection.recv(1024).split()[1])


def test_only_known_names_are_served_nobody_else_is_asked_and_sigterm_ends_it(
    served: Served,
) -> None:
    port = served.port
    assert _handshake(port, f"127.0.0.1:{port}", f"http://127.0.0.1:{port}") == 101
    assert _handshake(port, f"localhost:{port}", f"http://localhost:{port}") == 101
    rebound = f"rebound.example:{port}"
    assert _handshake(port, rebound, f"http://{rebound}") == 403
    assert _handshake(port, f"127.0.0.1:{port}", "http://foreign.example") == 403
    assert not served.asked.exists(), served.asked.read_text()
    served.process.send_signal(signal.SIGTERM)
    served.process.wait(30)
    assert not _listens(port)
