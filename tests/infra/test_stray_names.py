"""Commands run in a folder whose own files have the names of evenload's rooms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenload.workers.cli import COMMANDS
from evenload.workers.cli.dashboard import next_free_port

EVENLOAD = str(Path(sys.executable).with_name("evenload"))
STRAYS = ("pipeline.py", "dashboard.py", "infra.py", "workers/__init__.py", "tests/__init__.py")
HELP = """
import sys
from evenload.workers.cli import main
for name in {commands}:
    sys.argv = ["evenload", name, "--help"]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 0, name
"""
TRIAL: dict[str, Any] = {
    "model": {
        "preset": "tiny",
        "vocab_size": 32,
        "num_layers": 2,
        "d_model": 16,
        "num_heads": 2,
        "d_dense": 32,
        "num_experts": 4,
        "d_expert": 16,
    },
    "data": {"kind": "synthetic", "num_tokens": 20_000, "vocab_size": 32, "num_domains": 2},
    "train": {"steps": 4, "batch_sequences": 4, "micro_batch_sequences": 2, "seq_len": 16},
    "balancer": {"kind": "sign"},
    "eval": {"tokens": 256},
    "runtime": {"device": "cpu"},
}
SIMULATION = {
    "tokens": 64,
    "num_experts": 8,
    "top_k": 2,
    "steps": 20,
    "seeds": 1,
    "streams": {"still": {"kind": "gaussian"}},
    "rules": [{"kind": "sign", "step_size": 0.01}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every file in it leaves a mark where it is run."""
    for name in STRAYS:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\nx = 1\n")
    (tmp_path / "simulation.yaml").write_text(yaml.safe_dump(SIMULATION))
    return tmp_path


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "OMP_NUM_THREADS": "1"
    }


def run(folder: Path, *command: str) -> str:
    """Its standard output; it ends well and runs no file of the folder."""
    ended = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    assert not (folder / "ran").exists(), (folder / "ran").read_text()
    return ended.stdout


def test_the_strays_would_be_noticed(folder: Path) -> None:
    with pytest.raises(AssertionError, match=r"pipeline\.py"):
        run(folder, sys.executable, "-c", "import pipeline")


def test_every_command_helps(folder: Path) -> None:
    help_of_all = run(folder, sys.executable, "-P", "-c", HELP.format(commands=list(COMMANDS)))
    assert help_of_all.count("Usage: evenload") == len(COMMANDS)


@pytest.mark.slow
def test_commands_that_need_no_cluster_run(folder: Path) -> None:
    checks = json.loads(run(folder, EVENLOAD, "doctor", "--json"))["checks"]
    assert all(check["usable"] for check in checks if check["required"])
    rows = json.loads(run(folder, EVENLOAD, "simulate", "simulation.yaml", "--json"))["rows"]
    assert len(rows) == 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_trains_in_actors_and_is_reported(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(
        yaml.safe_dump({"name": "strays", "base": TRIAL, "axes": {"train.seed": [0]}})
    )
    found = json.loads(run(folder, EVENLOAD, "sweep", "run", "sweep.yaml", "--json"))
    assert [trial["state"] for trial in found["trials"]] == ["completed"]
    run(folder, EVENLOAD, "report", found["sweep_id"], "--html", "report.html")
    assert "strays" in (folder / "report.html").read_text()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_trial_trains_here_and_in_a_group(workers: int, folder: Path) -> None:
    tree = TRIAL | {"runtime": {"device": "cpu", "workers": workers}}
    (folder / "trial.yaml").write_text(yaml.safe_dump(tree))
    (trial,) = json.loads(run(folder, EVENLOAD, "train", "trial.yaml", "--json"))["trials"]
    assert trial["state"] == "completed"


@pytest.mark.slow
def test_the_dashboard_is_evenloads(folder: Path) -> None:
    port = next_free_port(8700)
    with subprocess.Popen(
        [EVENLOAD, "dashboard", "--port", str(port)],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            assert answer(f"http://127.0.0.1:{port}/_stcore/health", server) == "ok"
            assert "streamlit" in answer(f"http://127.0.0.1:{port}/", server).lower()
        finally:
            server.terminate()
    assert not (folder / "ran").exists()


def answer(url: str, server: subprocess.Popen[bytes], seconds: float = 60) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return str(response.read().decode())
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{url} does not answer; the server ended with {server.poll()}")
