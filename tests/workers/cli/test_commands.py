"""Commands are found by name and imported late."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from evenload.workers.cli import COMMANDS, load

SLOW = ("torch", "ray", "mlflow")
REPORT = """
import json, sys
from evenload.workers.cli import main
try:
    main()
except SystemExit as ended:
    slow = [name for name in {slow} if name in sys.modules]
    print(json.dumps([ended.code, slow]), file=sys.stderr)
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_what_the_command_says_of_itself(name: str) -> None:
    assert (load(name).help or "").splitlines()[0] == COMMANDS[name].help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    silent = [option.name for option in load(name).params if not getattr(option, "help", "")]
    assert silent == []


@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "list"], ["sweep", "--help"]])
def test_who_only_reads_need_not_wait_for_torch(arguments: list[str], tmp_path: object) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", REPORT.format(slow=SLOW), *arguments],
        cwd=str(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    code, imported = json.loads(ended.stderr.splitlines()[-1])
    assert (code, imported) == (0, [])


# What a rented GPU machine need not have, so that it measures: torch, pydantic and typer do.
STORES = ("ray", "mlflow", "sqlalchemy", "alembic", "optuna", "prometheus_client", "psycopg")
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({absent}))\n"


@pytest.mark.parametrize("name", ["bench", "tune"])
def test_measuring_needs_no_store_no_tracking_and_no_cluster(name: str) -> None:
    imported = "from evenload.workers.cli import load; load({name!r})"
    benchmarks = "import infra.benchmarks.moe_layer, infra.benchmarks.routing"
    script = "\n".join([WITHOUT.format(absent=STORES), imported.format(name=name), benchmarks])
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
