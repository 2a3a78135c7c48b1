"""The README is true: its tree is the repository's, its files parse, its four steps add a rule."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evenload.pipeline.spec.sweep import SweepSpec, load_sweep
from evenload.pipeline.spec.trial import TrialSpec, load_trial

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    return re.split(r"^#+ ", README.split(f" {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_tables_and_tree_follow_from_code_and_results() -> None:
    check = [sys.executable, str(ROOT / "infra" / "readme.py"), "--check"]
    assert subprocess.run(check, check=False).returncode == 0, "run: python infra/readme.py"


def test_the_sweep_in_the_readme_is_valid() -> None:
    sweep = next(block for block in code_blocks(README, "yaml") if "axes:" in block)
    assert len(SweepSpec.model_validate(yaml.safe_load(sweep)).expand()) == 6


@pytest.mark.parametrize("path", sorted((ROOT / "infra" / "sweeps").glob("*.yaml")), ids=str)
def test_example_files_are_valid(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    if "axes" in content:
        assert load_sweep(path).expand()
    elif "model" in content:
        assert isinstance(load_trial(path), TrialSpec)
    else:
        assert "streams" in content, "a simulation"


def test_the_four_steps_add_a_rule_that_passes_the_conformance_suite(tmp_path: Path) -> None:
    steps = section("Add a rule in four steps")
    entry, code = code_blocks(steps, "python")
    name = re.findall(r'^    "(\w+)": Rule', entry, flags=re.MULTILINE)[0]
    package = Path("infra/package/evenload")
    shutil.copytree(ROOT / package, tmp_path / package, symlinks=True)
    for room in ("pipeline", "workers", "tests", "pyproject.toml"):
        source, target = ROOT / room, tmp_path / room
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    table = tmp_path / "pipeline" / "spec" / "balancers.py"
    head = "BALANCERS: dict[str, Rule] = {\n"
    table.write_text(table.read_text().replace(head, head + entry))
    (tmp_path / "workers" / "balancing" / f"{name}.py").write_text(code)
    selected = ["-k", f"conformance and {name}", "-p", "no:cacheprovider"]
    suite = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/workers/balancing", *selected],
        cwd=tmp_path,
        env={
            "PYTHONPATH": f"{tmp_path}:{tmp_path}/infra/package",
            "PATH": "/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert suite.returncode == 0, suite.stdout[-2000:]
    assert int(re.findall(r"(\d+) passed", suite.stdout)[0]) > 5
