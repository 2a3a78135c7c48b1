"""Runs a benchmark: `python -m infra.benchmarks NAME` or `evenload bench NAME`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import Any

from evenload.pipeline.errors import SpecError
from evenload.workers.cli.session import log, out, print_json
from infra.benchmarks.hardware import describe_machine

# Each module has `run(quick: bool) -> dict` and `table(document: dict) -> str`.
BENCHMARKS: dict[str, str] = {
    "attach": "infra.benchmarks.attach",
    "moe-layer": "infra.benchmarks.moe_layer",
    "routing": "infra.benchmarks.routing",
    "training": "infra.benchmarks.training",
    "coordinator": "infra.benchmarks.coordinator",
    "pages": "infra.benchmarks.pages",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="evenload bench")
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    module: Any = import_module(BENCHMARKS[given.name])
    log.print(f"{given.name}: {(module.__doc__ or '').splitlines()[0]}")
    document = {"benchmark": given.name, **describe_machine(), **module.run(quick=given.quick)}
    if given.json:
        print_json(document)
    else:
        out.print(module.table(document))


if __name__ == "__main__":
    try:
        main()
    except SpecError as error:
        print(f"evenload: {error}", file=sys.stderr)
        sys.exit(2)
