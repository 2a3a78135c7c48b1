"""What pip installs: the contents of the wheel and of the sdist, and the wheel without extras."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zipfile import ZipFile

import pytest

from evenload import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
NOT_SOURCES = (".*", "__pycache__", "build", "dist", "*.egg-info")
BUILD = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
DATA = {
    "evenload/py.typed",
    "evenload/pipeline/store/migrations/script.py.mako",
    "evenload/pipeline/report/page.html.jinja",
    "evenload/workers/cli/quickstart.yaml",
    "evenload/workers/kernels/tiles.json",
}


class Built(NamedTuple):
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """From a copy: a build leaves files in the tree that it builds."""
    tree = tmp_path_factory.mktemp("build") / "tree"
    ignored = shutil.ignore_patterns(*NOT_SOURCES)
    shutil.copytree(REPOSITORY, tree, symlinks=True, ignore=ignored)
    command = [sys.executable, "-c", BUILD]
    ended = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return Built(*(next((tree / "dist").glob(kind)) for kind in ("*.whl", "*.tar.gz")))


def sources() -> set[str]:
    """Every module of the three rooms under its installed name."""
    return {
        f"evenload/{path.relative_to(REPOSITORY).as_posix()}"
        for room in ("pipeline", "workers", "dashboard")
        for path in (REPOSITORY / room).rglob("*.py")
    }


def test_the_wheel_holds_one_name_with_every_module_and_its_data(built: Built) -> None:
    names = {name for name in ZipFile(built.wheel).namelist() if ".dist-info/" not in name}
    assert names == sources() | DATA | {"evenload/__init__.py"}


def test_the_sdist_holds_the_same_and_neither_tests_nor_scripts(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        files = [PurePosixPath(entry.name) for entry in archive if entry.isfile()]
    names = {path.relative_to(path.parts[0]).as_posix() for path in files}
    package = "infra/package/"
    held = {name.removeprefix(package) for name in names if name.startswith(package)}
    assert sources() | DATA <= held
    outside = {name for name in names if not name.startswith(package)}
    assert outside == {"PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}


def test_the_metadata_name_version_authors_and_extras(built: Built) -> None:
    metadata = _metadata(built.wheel)
    assert metadata["Name"] == "evenload"
    assert metadata["Version"] == __version__
    assert metadata["Author"] == "The evenload authors"
    extras = {"workers", "dashboard", "hf", "mlflow", "s3", "report", "mcp", "all", "dev"}
    assert set(metadata.get_all("Provides-Extra", [])) == extras


def _metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.slow
def test_the_wheel_without_extras_gives_a_command_that_plans_and_reads(
    built: Built, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python, evenload = tmp_path / "venv/bin/python", tmp_path / "venv/bin/evenload"
    constraints = str(REPOSITORY / "infra" / "constraints.txt")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", constraints]
    subprocess.run([*pip, str(built.wheel)], check=True)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(evenload), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)

    assert run("--version").stdout == f"evenload {__version__}\n"
    (tmp_path / "sweep.yaml").write_text(run("spec", "example", "sweep").stdout)
    assert run("sweep", "list", "--json").stdout == "[]\n"
    assert run("doctor").returncode == 0
    refused = run("sweep", "run", "sweep.yaml")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: torch is not installed; run: pip install 'evenload[workers]'\n"
    )
