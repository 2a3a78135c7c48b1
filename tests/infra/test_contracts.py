"""Proves every import contract: a planted violation breaks it and no other contract."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

# One violation per contract in pyproject.toml, by the contract's name.
VIOLATIONS = {
    "Workers are layered": ("workers/data/shards.py", "import evenload.workers.training.loop"),
    "Pipeline is layered": ("pipeline/spec/trial.py", "import evenload.pipeline.sweep.answer"),
    "The model receives a bias and does not know who computed it": (
        "workers/model/router.py",
        "import evenload.workers.balancing.base",
    ),
    "Attach lives in other people's processes": ("workers/attach/errors.py", "import mlflow"),
    "Dashboard and workers ignore each other": (
        "dashboard/queries.py",
        "import evenload.workers.data",
    ),
    "Pipeline and dashboard know no accelerator and no cluster": (
        "pipeline/figures/loads.py",
        "import torch",
    ),
    "Pipeline does not know the dashboard": (
        "pipeline/settings.py",
        "import evenload.dashboard.wording",
    ),
    "triton only in workers.kernels": ("workers/training/step.py", "import triton"),
    "ray only in workers.actors": ("workers/training/loop.py", "import ray"),
    "mlflow only in pipeline.records": ("pipeline/store/models.py", "import mlflow"),
    "mcp only in pipeline.agents": ("workers/cli/mcp.py", "import mcp.server"),
    "sqlalchemy only in pipeline.store": ("pipeline/spec/trial.py", "import sqlalchemy"),
    "streamlit only in dashboard": ("workers/data/corpus.py", "import streamlit"),
    "transformers only in workers.attach and workers.model": (
        "workers/training/evaluate.py",
        "import transformers",
    ),
    "Charts are pure": ("pipeline/charts/loads.py", "import evenload.pipeline.sweep.setting"),
}


def broken_contracts(tree: Path) -> set[str]:
    result = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"],
        cwd=tree,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tree / "infra/package"), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        check=False,
    )
    return set(re.findall(r"^(.*?) BROKEN", result.stdout, flags=re.MULTILINE))


def copy_of_the_tree(target: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    for room in ("pipeline", "workers", "dashboard"):
        shutil.copytree(ROOT / room, target / room, ignore=ignored)
    package = Path("infra/package/evenload")
    shutil.copytree(ROOT / package, target / package, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def test_every_contract_has_a_planted_violation() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {contract["name"] for contract in config["tool"]["importlinter"]["contracts"]}
    assert names == set(VIOLATIONS)


def test_planted_violations_break_their_contracts(tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path)
    assert broken_contracts(tree) == set()
    for file, statement in VIOLATIONS.values():
        path = tree / file
        path.write_text(f"{path.read_text()}\n{statement}\n")
    assert broken_contracts(tree) == set(VIOLATIONS)
