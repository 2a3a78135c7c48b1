"""What contributors meet first agrees with the rest of the project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_ci_runs_the_test_command_on_every_python_that_is_supported() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    assert job["steps"][-1]["run"] == "bash infra/test.sh"
    lowest, above = re.findall(r"3\.(\d+)", PROJECT["project"]["requires-python"])
    wanted = [f"3.{minor}" for minor in range(int(lowest), int(above))]
    assert job["strategy"]["matrix"]["python"] == wanted


def test_hooks_check_with_the_ruff_of_the_tests() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (ruff,) = [repo for repo in hooks if "ruff" in repo["repo"]]
    assert (
        f"ruff=={ruff['rev'].removeprefix('v')}\n" in (ROOT / "infra/constraints.txt").read_text()
    )
    found = {hook["id"] for repo in hooks for hook in repo["hooks"]}
    assert found >= {"ruff-check", "ruff-format", "check-added-large-files", "check-merge-conflict"}


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")), ids=str)
def test_issue_forms_have_what_the_site_requires(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form.keys() >= {"name", "description", "body"}
    assert all(field["attributes"]["label"] for field in form["body"])


def test_the_picture_of_the_imports_shows_every_layer_of_the_contracts() -> None:
    picture = (ROOT / "README.md").read_text().split("import-linter checks")[1].split("```")[1]
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (layers,) = [c["layers"] for c in contracts if c["name"] == "Workers are layered"]
    places = [picture.find(layer.split(" | ")[0].removeprefix("evenload.")) for layer in layers]
    assert -1 not in places
    assert places == sorted(places)
