"""`evenload quickstart`: trains a small real sweep on this machine and serves the dashboard."""

import signal
import subprocess
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from evenload.pipeline.extras import DASHBOARD, WORKERS, require
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import load_sweep
from evenload.workers.cli.dashboard import next_free_port, start_dashboard, start_mlflow
from evenload.workers.cli.session import load_settings, log
from evenload.workers.cli.sweep import finish


def quickstart(
    serve: Annotated[
        bool, typer.Option(help="serve the dashboard and MLflow after the sweep")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
    home: Annotated[Path | None, typer.Option(help="folder with store and shards")] = None,
) -> None:
    """Train a small real sweep on this machine and show which balancing keeps experts busy.

    Bytes of the Python standard library's source, sixteen small models, less than three minutes on
    two cores. A second call finds the trials done and goes straight to the figures.
    """
    require(*WORKERS, *(DASHBOARD if serve else ()))
    from evenload.workers.cli.sweep_runner import run_sweep  # with torch, Ray and MLflow

    settings = load_settings(home)
    with as_file(files("evenload.workers.cli") / "quickstart.yaml") as path:
        spec = load_sweep(path)
    run_sweep(spec, settings, new_version=True)
    finish(settings, spec.sweep_id(), as_json)
    if serve:
        _serve(settings, spec.sweep_id())


def _serve(settings: Settings, sweep_id: str) -> None:
    port, mlflow_port = next_free_port(8501), next_free_port(5000)
    servers = [start_dashboard(settings, port, "127.0.0.1"), start_mlflow(settings, mlflow_port)]
    log.print(f"\ndashboard: http://127.0.0.1:{port}/sweep?sweep={sweep_id}")
    log.print(f"MLflow:    http://127.0.0.1:{mlflow_port}")
    log.print("Ctrl-C ends both.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends them as Ctrl-C does
    try:
        servers[0].wait()
    except KeyboardInterrupt:
        log.print("ending")
    finally:
        _end(servers)


def _end(servers: list[subprocess.Popen[bytes]]) -> None:
    for server in servers:
        server.terminate()
    for server in servers:
        server.wait(timeout=20)
