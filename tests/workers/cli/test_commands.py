"""Commands are found by name and imported late."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evenload import __version__
from evenload.workers.cli import COMMANDS, load, summary

SLOW = ("torch", "ray", "mlflow", "optuna", "pandas", "transformers", "scipy", "s3fs", "streamlit")
REPORT = """
import json, sys
from evenload.workers.cli import main
ended = {{}}
for call in {calls}:
    sys.argv = ["evenload", *call]
    try:
        main()
    except SystemExit as exit_:
        imported = [name for name in {libraries} if name in sys.modules]
        ended[" ".join(call)] = [exit_.code, imported]
print(json.dumps(ended), file=sys.stderr)
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_has_the_first_line_of_each_commands_help(name: str) -> None:
    assert (load(name).help or "").splitlines()[0] == summary(name) != ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name: str) -> None:
    without = [option.name for option in load(name).params if not getattr(option, "help", "")]
    assert without == []


PLAN = """
name: planned
base:
  model: {preset: tiny, vocab_size: 256, num_experts: 8}
  data: {kind: synthetic, num_tokens: 60000, vocab_size: 256, num_domains: 2}
  train: {steps: 2, batch_sequences: 2, seq_len: 16}
  eval: {tokens: 64}
axes: {balancer: [{kind: none}, {kind: sign}]}
"""


def test_commands_that_train_nothing_do_not_wait_for_torch(tmp_path: Path) -> None:
    (tmp_path / "planned.yaml").write_text(PLAN)
    calls = [[name, "--help"] for name in COMMANDS]
    calls += [["sweep", "plan", "planned.yaml"], ["sweep", "list"], ["doctor"]]
    calls += [["sweep", "status", "unknown"]]
    ends = {"sweep list": 2, "sweep status unknown": 2}  # no store yet
    assert imported_by(calls, tmp_path, SLOW) == {
        (name := " ".join(call)): [ends.get(name, 0), []] for call in calls
    }


def test_the_overview_imports_next_to_nothing(tmp_path: Path) -> None:
    libraries = (*SLOW, "numpy", "scipy", "pyarrow", "sqlalchemy", "streamlit")
    expected = {"--version": [0, []], "--help": [0, []]}
    assert imported_by([["--version"], ["--help"]], tmp_path, libraries) == expected


BUDGETS = {  # what a process may import before its first step, of what takes long
    "evenload.workers.cli.trial_runner": {"torch"},
    "evenload.workers.actors.stacked_actor": {"torch"},
    "evenload.workers.actors.eval_actor": {"torch"},
    "evenload.workers.cli.listing": set(),
    "evenload.workers.cli.coordinator_process": {"torch", "ray", "scipy"},
}
PARTS = (
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "ray.train",
    "sklearn",
    "matplotlib",
    "alembic",
)


@pytest.mark.slow
@pytest.mark.parametrize("module", BUDGETS)
def test_no_process_imports_what_it_does_not_use(module: str) -> None:
    script = f"import {module}, sys, json; print(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert {*json.loads(ended.stdout)} & {*SLOW, *PARTS} == BUDGETS[module]


def imported_by(calls: list[list[str]], folder: Path, libraries: Sequence[str]) -> Any:
    """By call: its exit code and which of the libraries were imported by then."""
    ended = subprocess.run(
        [sys.executable, "-c", REPORT.format(calls=calls, libraries=libraries)],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ended.stderr.splitlines()[-1])


BASE_INSTALL = """
import contextlib, io, json, sys
from evenload.pipeline.extras import EXTRAS
from evenload.workers.cli import main
sys.modules.update(dict.fromkeys(EXTRAS))
ended = {{}}
for call in {calls}:
    sys.argv = ["evenload", *call.split()]
    with contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as exit_:
            ended[call] = [exit_.code or 0, err.getvalue()]
print(json.dumps(ended))
"""


def test_the_base_install_works_or_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "planned.yaml").write_text(PLAN)
    lacks = {
        "sweep run planned.yaml": "torch",
        "train trial.yaml": "torch",
        "dashboard": "streamlit",
        "export x y": "torch",
        "tune": "torch",
    }
    expected = {"sweep plan planned.yaml": (0, "no CUDA device")} | {
        call: (2, f"error: {library} is not installed; run: pip install")
        for call, library in lacks.items()
    }
    ended = subprocess.run(
        [sys.executable, "-c", BASE_INSTALL.format(calls=list(expected))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ended.stdout.splitlines()[-1])  # after the plan
    assert found.keys() == expected.keys()
    for call, (code, message) in expected.items():
        assert (found[call][0], found[call][1][: len(message)]) == (code, message)
        assert found[call][1].count("\n") == 1, call


def test_the_version_is_the_packages(here: Any) -> None:
    assert here("--version").out == f"evenload {__version__}\n"


COMPLETE = """
import os, sys
from evenload.workers.cli import main
def run(*arguments, **environment):
    os.environ.update(environment)
    sys.argv = ["evenload", *arguments]
    try:
        main()
    except SystemExit:
        print("---")
run("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
for words, last in (("evenload sweep pl", "2"), ("evenload train --rec", "2")):
    run(_EVENLOAD_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=last)
"""


def test_a_shell_completes_commands_and_options() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", COMPLETE], capture_output=True, text=True, check=True
    )
    script, *found, _ = ended.stdout.split("---\n")
    assert "_EVENLOAD_COMPLETE=complete_bash" in script
    assert [words.strip() for words in found] == ["plan", "--record-scores"]


# A rented GPU machine can measure without these; torch, pydantic and typer are enough.
STORES = ("ray", "mlflow", "sqlalchemy", "alembic", "optuna", "prometheus_client", "psycopg")
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({absent}))\n"


def test_measuring_needs_no_store_no_tracking_and_no_cluster() -> None:
    imported = "from evenload.workers.cli import load; load('bench'); load('tune')"
    benchmarks = "import infra.benchmarks.moe_layer, infra.benchmarks.routing"
    script = "\n".join([WITHOUT.format(absent=STORES), imported, benchmarks])
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
