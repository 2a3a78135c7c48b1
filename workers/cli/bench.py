"""`evenload bench`: runs the benchmarks of a clone, which compare evenload with rivals."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

import evenload
from evenload.pipeline.errors import SpecError
from evenload.workers.cli.session import AsJson

CHECKOUT = Path(str(evenload.__file__)).resolve().parents[3]


def bench(
    name: Annotated[str, typer.Argument(help="moe-layer, routing, training, coordinator")],
    quick: Annotated[bool, typer.Option(help="small sizes, only to see whether it runs")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a benchmark in a clone, which times evenload and its rivals in turn."""
    if not (CHECKOUT / "infra" / "benchmarks").is_dir():
        raise SpecError("benchmarks are not part of the installed package; run this in a clone")
    options = [*(["--quick"] if quick else []), *(["--json"] if as_json else [])]
    command = [sys.executable, "-m", "infra.benchmarks", name, *options]
    raise typer.Exit(subprocess.run(command, cwd=CHECKOUT, check=False).returncode)
