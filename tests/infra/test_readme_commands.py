"""Runs every command of every README, in order."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

import pytest
import typer

from evenload.workers.cli import load
from tests.infra.readme_shell import STAND_INS, Shell, check_names, commands, small

READMES = [
    "README.md",
    "pipeline/README.md",
    "workers/README.md",
    "dashboard/README.md",
    "infra/README.md",
    "tests/README.md",
    ".github/CONTRIBUTING.md",
]


LONG = ("pipeline/README.md", "workers/README.md", "tests/README.md")  # up to a minute each


@pytest.mark.parametrize(
    "readme",
    [pytest.param(one, marks=[pytest.mark.slow] if one in LONG else []) for one in READMES],
)
def test_commands_of_a_readme_work(
    readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = Shell(tmp_path)
    found = commands(readme)
    assert found
    for command in found:
        shell.run(command)


@pytest.mark.parametrize("readme", LONG)
def test_options_of_the_commands_of_a_long_readme_exist(readme: str) -> None:
    for line in commands(readme):
        program, *words = shlex.split(line.partition(" > ")[0])
        if program == "evenload":
            name, *words = words
            command = load(name)
            if hasattr(command, "commands"):
                name, *words = words
                command = command.commands[name]
            with suppress(typer.Exit):  # of --help
                command.make_context(name, words)  # raises if it does not know an option


def test_every_stand_in_is_used() -> None:
    every = [command for readme in READMES for command in commands(readme)]
    unused = [start for start in STAND_INS if not any(c.startswith(start) for c in every)]
    assert unused == []


def test_wrong_commands_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shell = Shell(tmp_path)
    for wrong in (
        "evenload sweep plan infra/sweeps/missing.yaml",
        "evenload spec example trail",
        "evenload dashboard --prot 8501",
        "python infra/record.py nothing",
        "bash infra/missing.sh",
    ):
        with pytest.raises(AssertionError):
            shell.run(wrong)
    for wrong in ("docker-compose stop cordinator", "kubectl apply -k infra/k9s"):
        with pytest.raises(AssertionError):
            check_names(wrong)


def test_small_files_keep_rules_and_axes() -> None:
    sweep = {
        "base": {"balancer": {"kind": "sign"}, "eval": {"every_steps": 3}},
        "axes": {"a": [1, 2], "b": [1, 2, 3]},
    }
    made = small(sweep)
    assert made["axes"] == {"a": [1], "b": [1, 2]}
    assert made["base"]["balancer"] == {"kind": "sign"}
    assert made["base"]["eval"]["every_steps"] == 3
    assert made["base"]["train"]["steps"] == 12
