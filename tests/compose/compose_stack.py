"""The compose stack under its own project name and ports, with the actions of a user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.small_model import SMALL_MODEL

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = "evenload-test"
TIMED = {"train_seconds", "tokens_per_second", "tracking_errors"}
BASE: dict[str, Any] = {
    "model": SMALL_MODEL,
    "data": {"kind": "synthetic", "num_tokens": 60_000, "vocab_size": 32, "num_domains": 2},
    "train": {"steps": 24, "batch_sequences": 4, "seq_len": 32},
    "balancer": {"kind": "none"},
    "eval": {"tokens": 1024},
    "runtime": {"device": "cpu", "log_every": 8, "checkpoint_every": 8},
}


def sweep(name: str, steps: int, seeds: int = 1, max_retries: int = 2) -> dict[str, Any]:
    """A sweep of two rules and `seeds` seeds."""
    runtime = BASE["runtime"] | {"log_every": max(8, steps // 20), "checkpoint_every": 50}
    base = BASE | {"train": BASE["train"] | {"steps": steps}, "runtime": runtime}
    rules = [{"kind": "none"}, {"kind": "sign", "step_size": 0.01}]
    axes = {"train.seed": list(range(seeds)), "balancer": rules}
    return {"name": name, "base": base, "axes": axes, "max_retries": max_retries}


def figures(document: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The figures of a sweep by trial, without those that depend on the clock or on outages."""
    return {
        trial["digest"]: {key: v for key, v in trial["result"].items() if key not in TIMED}
        for trial in document["trials"]
    }


def until(holds: Callable[[], Any], seconds: float, what: str) -> Any:
    """Repeats `holds` until it is true; returns its value. Errors of services count as false."""
    deadline = time.monotonic() + seconds
    answer, problem = None, ""
    while time.monotonic() < deadline:
        try:
            if answer := holds():
                return answer
        except (OSError, subprocess.CalledProcessError) as error:
            problem = f"{error} {getattr(error, 'stderr', '')}"
        time.sleep(1)
    raise AssertionError(f"not within {seconds:.0f} s: {what}; {answer=} {problem}")


class Stack:
    """The services of docker-compose.yml."""

    def __init__(self, env_file: Path) -> None:
        values = [line.split("=", 1) for line in env_file.read_text().splitlines()]
        self.settings = dict(values)
        self._env_file = env_file

    def compose(self, *arguments: str, stdin: str = "", timeout: float = 900) -> str:
        """Raises: CalledProcessError"""
        command = ["docker-compose", "-p", PROJECT, "--env-file", str(self._env_file)]
        ended = subprocess.run(
            [*command, *arguments],
            cwd=REPOSITORY,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            # The values of the file override those of the caller's environment.
            env=os.environ | self.settings,
        )
        if ended.returncode:
            raise subprocess.CalledProcessError(
                ended.returncode, arguments, ended.stdout, ended.stderr
            )
        return ended.stdout

    def evenload(self, *arguments: str, stdin: str = "", service: str = "ray-head") -> str:
        return self.compose("exec", "-T", service, "evenload", *arguments, stdin=stdin)

    def submit(self, tree: dict[str, Any]) -> str:
        spec = yaml.safe_dump(tree)
        return str(
            json.loads(self.evenload("sweep", "submit", "/dev/stdin", "--json", stdin=spec))[
                "sweep_id"
            ]
        )

    def status(self, sweep_id: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.evenload("sweep", "status", sweep_id, "--json"))
        return document

    def finished(self, sweep_id: str, seconds: float = 240) -> dict[str, Any]:
        def document() -> dict[str, Any] | None:
            found = self.status(sweep_id)
            return found if found["state"] == "finished" else None

        ended: dict[str, Any] = until(document, seconds, f"{sweep_id} is finished")
        return ended

    def progress(self, sweep_id: str) -> int:
        """The number of steps trained so far, over all trials."""
        trials = self.status(sweep_id)["trials"]
        return sum(trial["progress"]["step"] for trial in trials if trial["progress"])

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def health(self, service: str) -> list[str]:
        pattern = "{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}"
        return [_docker("inspect", "-f", pattern, name) for name in self.containers(service)]

    def healthy(self, *services: str, seconds: float = 240) -> None:
        for service in services:
            until(
                lambda name=service: set(self.health(name)) == {"running healthy"},
                seconds,
                f"{service} is healthy",
            )

    def crash(self, service: str) -> None:
        """Kills the service as if out of memory. Its restart policy must start it again."""
        for container in self.containers(service):
            os.kill(int(_docker("inspect", "-f", "{{.State.Pid}}", container)), signal.SIGKILL)

    def dump(self, database: str) -> bytes:
        command = ["pg_dump", "-U", "evenload", "-Fc", database]
        return self._bytes("exec", "-T", "postgres", *command)

    def restore(self, database: str, dump: bytes) -> None:
        command = ["pg_restore", "-U", "evenload", "--clean", "--if-exists", "-d", database]
        self._bytes("exec", "-T", "postgres", *command, stdin=dump)

    def _bytes(self, *arguments: str, stdin: bytes = b"") -> bytes:
        command = ["docker-compose", "-p", PROJECT, "--env-file", str(self._env_file), *arguments]
        environment = os.environ | self.settings
        return subprocess.run(
            command, cwd=REPOSITORY, input=stdin, capture_output=True, check=True, env=environment
        ).stdout

    def url(self, port: str, path: str) -> str:
        return f"http://127.0.0.1:{self.settings[port]}{path}"

    def mlflow(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        """Calls MLflow's REST API from outside of the stack."""
        request = urllib.request.Request(
            self.url("MLFLOW_PORT", f"/api/2.0/mlflow/{endpoint}"),
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def mlflow_runs(self, sweep_id: str) -> list[dict[str, Any]]:
        path = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=evenload"
        with urllib.request.urlopen(self.url("MLFLOW_PORT", path), timeout=30) as answer:
            experiment = json.load(answer)["experiment"]["experiment_id"]
        query = f"tags.sweep = '{sweep_id}'"
        found = self.mlflow("runs/search", {"experiment_ids": [experiment], "filter": query})
        return list(found.get("runs", []))


def _docker(*arguments: str) -> str:
    ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True)
    return ended.stdout.strip()
