"""`evenload spec`: shows what can be written into a sweep, a trial or a simulation."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from evenload.pipeline.spec.reference import resolved
from evenload.pipeline.spec.reference import schema as schema_of
from evenload.pipeline.spec.yaml_text import yaml_of
from evenload.workers.cli.session import print_json

spec_app = typer.Typer(
    help="Show what can be written into a sweep, a trial or a simulation.", no_args_is_help=True
)
Kind = Annotated[
    Literal["sweep", "trial", "simulation"], typer.Argument(help="what the file describes")
]


@spec_app.command()
def example(kind: Kind) -> None:
    """Print a file that can be run, with every key and its meaning as a comment."""
    from evenload.pipeline.spec.example import example as example_of

    sys.stdout.write(example_of(kind))


@spec_app.command()
def show(
    file: Annotated[Path, typer.Argument(help="YAML file of a sweep, a trial or a simulation")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
) -> None:
    """Check a file and print it with its presets and defaults filled in, as YAML."""
    document = resolved(file)
    if as_json:
        print_json(document)
    else:
        sys.stdout.write(yaml_of(document))


@spec_app.command()
def schema(kind: Kind) -> None:
    """Print JSON Schema, with which editors complete and check a file while you type."""
    print_json(schema_of(kind))
