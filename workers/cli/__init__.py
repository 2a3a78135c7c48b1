"""The command `evenload`. Only this room chooses implementations for the interfaces of the others.

Every command exits with 0, 1 (it failed) or 2 (bad input). Results go to standard output, progress
and logs to standard error; `--json` prints exactly one JSON document on standard output.

A command is imported when it is called, so that `sweep status` or `--help` need not wait seconds
for torch, Ray and MLflow.
"""

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from evenload import __version__

Context = Any  # click's: typer depends on click or brings its own, by its version


# By name: the module of this folder and its attribute, a function or a Typer of several commands.
COMMANDS = {
    "quickstart": "quickstart.quickstart",
    "train": "train.train",
    "sweep": "sweep.sweep_app",
    "spec": "spec.spec_app",
    "simulate": "simulate.simulate",
    "advise": "simulate.advise_command",
    "import": "import_records.import_command",
    "audit": "audit.audit_command",
    "report": "report.report",
    "runs": "runs.runs",
    "export": "export.export",
    "gc": "gc.gc",
    "serve": "serve.serve",
    "dashboard": "dashboard.dashboard",
    "mcp": "mcp.mcp_command",
    "doctor": "doctor.doctor",
    "bench": "bench.bench",
    "tune": "tune.tune",
}


class LazyGroup(TyperGroup):
    """Lists commands without importing them, and imports the one that is called."""

    def list_commands(self, ctx: Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Context, name: str) -> TyperCommand | None:
        return TyperCommand(name, help=summary(name)) if name in COMMANDS else None

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load(str(name)), rest


def summary(name: str) -> str:
    """The first line of a command's help, read from its source, because an import takes seconds."""
    module, attribute = COMMANDS[name].split(".")
    source = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    pattern = rf'^(def {attribute}\(.*?"""|{attribute} = typer.Typer\(\s*help=")(.*?)["\n]'
    found = re.search(pattern, source, re.DOTALL | re.MULTILINE)
    return found[2] if found else ""


def load(name: str) -> Any:
    """The command of this name, imported."""
    module, attribute = COMMANDS[name].split(".")
    found = getattr(import_module(f"{__name__}.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"evenload {__version__}")
        raise typer.Exit


@app.callback()
def evenload(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Finds the balancing rule and step size that keep every expert of an MoE model busy."""


# The base of click's errors, whichever click typer uses.
UsageProblem: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """Runs the command. Every error is one message, and with --json one JSON document."""
    try:
        code = app(standalone_mode=False) or 0
    except UsageProblem as error:
        if "--json" not in sys.argv:
            error.show()
            sys.exit(error.exit_code)
        _end(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _end("interrupted", 1)
    except Exception as error:  # noqa: BLE001  a traceback tells a user nothing
        from evenload.workers.cli.problems import problem_of

        _end(*problem_of(error))
    if code:
        _end("", int(code))
    sys.exit(0)


def _end(problem: str, code: int) -> NoReturn:
    from evenload.workers.cli.problems import end  # with pydantic, which --help need not wait for

    end(problem, code)
