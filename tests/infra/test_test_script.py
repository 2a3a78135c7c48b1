"""`infra/test.sh` fails if one of its checks fails, also the one that runs beside the tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKS = ("ruff", "lint-imports", "mypy", "python")


def run(folder: Path, failing: str | None) -> subprocess.CompletedProcess[str]:
    """Runs it with stand-ins that print their name; one of them fails."""
    (folder / "infra").mkdir()
    shutil.copy(ROOT / "infra" / "test.sh", folder / "infra")
    (folder / "infra" / "install.sh").write_text("")
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in CHECKS:
        (tools / name).write_text(f"#!/bin/sh\necho {name} ran\nexit {int(name == failing)}\n")
        (tools / name).chmod(0o755)
    command = ["bash", "infra/test.sh"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("failing", CHECKS)
def test_the_script_fails_with_any_of_its_checks(failing: str, tmp_path: Path) -> None:
    ended = run(tmp_path, failing)
    assert ended.returncode == 1
    assert f"{failing} ran" in ended.stdout


def test_the_script_runs_every_check(tmp_path: Path) -> None:
    ended = run(tmp_path, None)
    assert ended.returncode == 0
    assert [name for name in CHECKS if f"{name} ran" not in ended.stdout] == []
