"""The stack for the whole session, and the same sweep on this machine for comparison."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compose.compose_stack import REPOSITORY, Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with built images, no data and no running service. Only its images remain."""
    if shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose")
    env_file = tmp_path_factory.mktemp("compose") / "env"
    ports = {"DASHBOARD_PORT": 18501, "MLFLOW_PORT": 15000, "RAY_PORT": 18265}
    values = ports | {
        **{
            f"POSTGRES_{role}PASSWORD": secrets.token_hex(16)
            for role in ("", "OWNER_", "WRITER_", "READER_", "MLFLOW_")
        },
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "GRAFANA_PASSWORD": secrets.token_hex(16),
        "EVENLOAD_DASHBOARD_CONTROLS": "true",
    }
    env_file.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    stack = Stack(env_file)
    stack.compose("down", "--volumes", "--remove-orphans")
    stack.compose("build", "--quiet", timeout=3600)
    yield stack
    if not os.environ.get("EVENLOAD_KEEP_STACK"):
        stack.compose("down", "--volumes", "--remove-orphans")


@pytest.fixture
def local(tmp_path: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Runs `evenload sweep run` on this machine with SQLite; returns its JSON document."""

    def run(tree: dict[str, Any]) -> dict[str, Any]:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(tree))
        ended = subprocess.run(
            [str(REPOSITORY / ".venv" / "bin" / "evenload"), "sweep", "run", str(path), "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        document: dict[str, Any] = json.loads(ended.stdout)
        return document

    return run
