"""Writes the parts of the READMEs that come from data: the spec reference and recorded results.

python infra/readme.py            rewrites them
python infra/readme.py --check    exit code 1 if one is out of date
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import result_tables
import spec_tables

ROOT = Path(__file__).parents[1]

BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"seeds": result_tables.seeds},
    "pipeline/README.md": {
        "settings": spec_tables.settings,
        "spec": spec_tables.reference,
        "coordinator": result_tables.coordinator,
    },
    "workers/README.md": {
        "rules": spec_tables.rules,
        "quickstart": result_tables.quickstart,
        "simulation": result_tables.simulation,
        "training": result_tables.training,
    },
    "dashboard/README.md": {"pages": result_tables.pages},
}


def updated(text: str, blocks: dict[str, Callable[[], str]]) -> str:
    """The text with a new block between each pair of markers."""
    for name, write in blocks.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n\n{write()}\n\n{end}{after}"
    return text


def main() -> int:
    stale = 0
    for name, blocks in BLOCKS.items():
        path = ROOT / name
        current = path.read_text(encoding="utf-8")
        wanted = updated(current, blocks)
        stale += wanted != current
        if "--check" not in sys.argv:
            path.write_text(wanted, encoding="utf-8")
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
