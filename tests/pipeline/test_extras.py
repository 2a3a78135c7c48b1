"""Every library that evenload imports comes with the base install or with a known extra."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.extras import EXTRAS, explanation, require

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = packages_distributions()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(library: str) -> set[str]:
    """What is to be installed for an import to work."""
    return set(map(normal, DISTRIBUTIONS.get(library, [library])))


def names(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=;! ]", line)[0]) for line in requirements}


BASE = names(PROJECT["dependencies"])


def imported_libraries() -> Iterator[tuple[str, str]]:
    """Top-level names that the packages import, with the file, without the standard library.

    pydantic_core is a part of pydantic.
    """
    for room in ("pipeline", "workers", "dashboard"):
        for path in (REPOSITORY / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    found = [node.module or ""]
                for name in found:
                    library = name.partition(".")[0]
                    if library not in {*sys.stdlib_module_names, "evenload", "pydantic_core"}:
                        yield library, str(path.relative_to(REPOSITORY))


def test_every_import_is_of_the_base_install_or_has_an_extra() -> None:
    unknown = {
        (library, path)
        for library, path in imported_libraries()
        if library not in EXTRAS and not BASE & distributions(library)
    }
    assert unknown == set()


@pytest.mark.parametrize("library", EXTRAS)
def test_the_extra_brings_the_library_and_the_base_install_does_not(library: str) -> None:
    brought = names(PROJECT["optional-dependencies"][EXTRAS[library]])
    brings_it = distributions(library)
    assert brings_it & brought
    assert not brings_it & BASE


def test_every_dependency_names_a_file_that_is_there() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    reasons = re.findall(r'^    "[^"]+", *#(.*)$', text, re.M)
    paths = re.findall(r"\b(?:pipeline|workers|dashboard|tests)/[\w/.*]+", "\n".join(reasons))
    assert len(paths) > 25
    assert [path for path in paths if not list(REPOSITORY.glob(path))] == []


def test_a_missing_library_is_explained_by_its_extra_and_another_module_is_not() -> None:
    missing = ModuleNotFoundError("No module named 'torch'", name="torch.cuda")
    assert explanation(missing) == "torch is not installed; run: pip install 'evenload[workers]'"
    assert explanation(ModuleNotFoundError("No module named 'mine'", name="mine")) is None


def test_what_a_command_needs_is_asked_for_before_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require("torch", "safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(SpecError, match=r"safetensors.*pip install 'evenload\[hf\]'"):
        require("torch", "safetensors")
