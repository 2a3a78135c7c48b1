"""The command `evenload`. Only this room chooses implementations for the interfaces of the others.

Every command exits with 0, 1 (it failed) or 2 (bad input). Results go to standard output, progress
and logs to standard error; `--json` prints exactly one JSON document on standard output.

A command is imported when it is called, so that `sweep status` or `--help` need not wait seconds
for torch, Ray and MLflow.
"""

import sys
from importlib import import_module
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from evenload import __version__

Context = Any  # click's: typer depends on click or brings its own, by its version


class Command(NamedTuple):
    module: str
    attribute: str  # a function, or a Typer with commands of its own
    help: str  # the first line of its docstring


COMMANDS = {
    "quickstart": Command(
        "evenload.workers.cli.quickstart",
        "quickstart",
        "Train a small real sweep on this machine and show which balancing keeps experts busy.",
    ),
    "train": Command(
        "evenload.workers.cli.train",
        "train",
        "Train one trial in this process, score it on held-out text and print its figures.",
    ),
    "sweep": Command("evenload.workers.cli.sweep", "sweep_app", "Plan, run and manage sweeps."),
    "spec": Command(
        "evenload.workers.cli.spec",
        "spec_app",
        "Show what can be written into a sweep, a trial or a simulation.",
    ),
    "simulate": Command(
        "evenload.workers.cli.simulate",
        "simulate",
        "Run balancing rules on streams of router scores, without a model.",
    ),
    "advise": Command(
        "evenload.workers.cli.simulate",
        "advise_command",
        "Show which step sizes and schedules theory recommends for a recorded run.",
    ),
    "import": Command(
        "evenload.workers.cli.import_records",
        "import_command",
        "Take over what Megatron, SGLang, vLLM, torchtitan or a table recorded of their experts.",
    ),
    "audit": Command(
        "evenload.workers.cli.audit",
        "audit_command",
        "Look for reasons to distrust the answer of a sweep, each with evidence and a remedy.",
    ),
    "report": Command(
        "evenload.workers.cli.report",
        "report",
        "Write the answer of a sweep as one page: claims, evidence, cost, how to repeat.",
    ),
    "runs": Command(
        "evenload.workers.cli.runs",
        "runs",
        "List recorded runs: attached models and imported records, newest first.",
    ),
    "export": Command(
        "evenload.workers.cli.export",
        "export",
        "Write a trained trial as a Hugging Face model: weights, learned biases, tokenizer, card.",
    ),
    "serve": Command(
        "evenload.workers.cli.serve", "serve", "Run submitted sweeps until Ctrl-C or SIGTERM."
    ),
    "dashboard": Command(
        "evenload.workers.cli.dashboard", "dashboard", "Serve the dashboard until Ctrl-C."
    ),
    "mcp": Command(
        "evenload.workers.cli.mcp",
        "mcp_command",
        "Serve sweeps, tables, answers, audits and advice to agents, over MCP.",
    ),
    "doctor": Command(
        "evenload.workers.cli.doctor",
        "doctor",
        "Check what works on this machine; exit with 1 if a required part does not.",
    ),
    "bench": Command(
        "evenload.workers.cli.bench",
        "bench",
        "Run a benchmark in a clone, which times evenload and its rivals in turn.",
    ),
    "tune": Command(
        "evenload.workers.cli.tune",
        "tune",
        "Find the fastest tile sizes of the Triton kernels for a layer on this GPU.",
    ),
}


class LazyGroup(TyperGroup):
    """Lists commands without importing them, and imports the one that is called."""

    def list_commands(self, ctx: Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Context, name: str) -> TyperCommand | None:
        return TyperCommand(name, help=COMMANDS[name].help) if name in COMMANDS else None

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load(str(name)), rest


def load(name: str) -> Any:
    """The command of this name, imported."""
    found = getattr(import_module(COMMANDS[name].module), COMMANDS[name].attribute)
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
