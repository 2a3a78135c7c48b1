"""`evenload`, the one command, and the only place that picks implementations.

Every command exits with 0, 1 (it failed) or 2 (bad input). Results go to standard output, progress
and logs to standard error; `--json` prints exactly one JSON document on standard output.
"""

from __future__ import annotations

import sys

import typer

from pipeline.errors import SpecError
from workers.cli.bench import bench
from workers.cli.dashboard import dashboard
from workers.cli.doctor import doctor
from workers.cli.quickstart import quickstart
from workers.cli.serve import serve
from workers.cli.simulate import advise_command, simulate
from workers.cli.sweep import sweep_app
from workers.cli.train import train

app = typer.Typer(
    help="Finds the balancing rule and step size that keep every expert of an MoE model busy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(quickstart)
app.command()(train)
app.add_typer(sweep_app, name="sweep")
app.command()(simulate)
app.command(name="advise")(advise_command)
app.command()(serve)
app.command()(dashboard)
app.command()(doctor)
app.command()(bench)


def main() -> None:
    try:
        app()
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
