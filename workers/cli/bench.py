"""`evenload bench`: benchmarks, each one JSON document with hardware, versions and commit."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer

from pipeline.errors import SpecError
from workers.benchmarks.hardware import where
from workers.cli.session import log, out, print_json

# name -> module with `run(quick: bool) -> dict` and, for people, `table(document: dict) -> str`
BENCHMARKS: dict[str, str] = {
    "moe-layer": "workers.benchmarks.moe_layer",
    "routing": "workers.benchmarks.routing",
    "training": "workers.benchmarks.training",
    "coordinator": "workers.benchmarks.coordinator",
}


def bench(
    name: Annotated[str, typer.Argument(help=", ".join(BENCHMARKS))],
    quick: Annotated[
        bool, typer.Option(help="small sizes: does it run, not how fast is it")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="one JSON document on standard output")
    ] = False,
) -> None:
    """Run a benchmark. Rivals are measured in turn with us, in the same run."""
    if name not in BENCHMARKS:
        raise SpecError(f"benchmark {name!r} is unknown; choose one of {', '.join(BENCHMARKS)}")
    module: Any = import_module(BENCHMARKS[name])
    log.print(f"{name}: {(module.__doc__ or '').splitlines()[0]}")
    document = {"benchmark": name, **where(), **module.run(quick=quick)}
    if as_json:
        print_json(document)
    else:
        out.print(module.table(document))
