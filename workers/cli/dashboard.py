"""`evenload dashboard`, and the servers that `evenload quickstart` starts at its end."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from evenload.pipeline.errors import SpecError
from evenload.pipeline.extras import DASHBOARD, require
from evenload.pipeline.processes import end_with_parent
from evenload.pipeline.records.mlflow_environment import ENVIRONMENT
from evenload.pipeline.settings import Settings
from evenload.workers.cli.session import load_settings, log, open_store


def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the dashboard")] = 8501,
    address: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    home: Annotated[Path | None, typer.Option(help="folder with store and shards")] = None,
) -> None:
    """Serve the dashboard until Ctrl-C."""
    require(*DASHBOARD)
    settings = load_settings(home)
    open_store(settings, create=True)
    command = _command(free_port(port, address), address)
    log.print(f"dashboard: http://{address}:{port}  (Ctrl-C ends it)")
    # In place of this process, so that every signal reaches the server.
    os.execve(command[0], command, environment(settings))


def start_dashboard(settings: Settings, port: int, address: str) -> subprocess.Popen[bytes]:
    """Starts the Streamlit app in a new process."""
    command = _command(port, address)
    return subprocess.Popen(command, env=environment(settings), preexec_fn=end_with_parent)


def _command(port: int, address: str) -> list[str]:
    where = ["--port", str(port), "--address", address]
    return [sys.executable, "-P", "-m", "evenload.dashboard", *where]


def start_mlflow(settings: Settings, port: int) -> subprocess.Popen[bytes]:
    """Starts MLflow's server and UI for the same runs."""
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    if settings.mlflow_artifacts:
        command += ["--default-artifact-root", settings.mlflow_artifacts]
    # In the environment, because every user of the machine can read the arguments of a process.
    own = {
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_uri,
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{n},{n}:*" for n in settings.host_names()),
    }
    return subprocess.Popen(
        command,
        env=ENVIRONMENT | environment(settings) | own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=end_with_parent,
    )


def environment(settings: Settings) -> dict[str, str]:
    """The environment for a child process that uses the same store and the same runs."""
    return os.environ | {
        "EVENLOAD_HOME": str(settings.root),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "GIT_PYTHON_REFRESH": "quiet",
    }


def free_port(port: int, address: str = "127.0.0.1") -> int:
    """Returns the port.  Raises: SpecError: it is in use, or the address is not valid"""
    try:
        family, *_, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SpecError(f"--port {port} is in use; choose another one") from None
        raise SpecError(
            f"--address {address} --port {port}: {error.strerror}; choose others, or leave them out"
        ) from None
    return port


def next_free_port(port: int) -> int:
    """The first free one of the 50 ports from `port` on."""
    for candidate in range(port, port + 50):
        try:
            return free_port(candidate)
        except SpecError:
            continue
    raise SpecError(f"no free port from {port} to {port + 49}; end some of the servers there")
