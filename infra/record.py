"""Keeps the figures of a command as JSON lines for the tables of the READMEs.

    evenload quickstart --no-serve --json | python infra/record.py quickstart
    evenload sweep run infra/sweeps/five_seeds.yaml --json | python infra/record.py five_seeds
    evenload simulate infra/sweeps/rules.yaml --json | python infra/record.py rules
    evenload bench training --json | python infra/record.py training
    evenload bench coordinator --json | python infra/record.py coordinator
    python -m infra.benchmarks.dashboard_pages --json | python infra/record.py pages

The first line of a file has the origin of the figures: command, date, hardware, versions and
commit. Every other line is one row: a trial, a stream and rule, an arm of a benchmark, a page. It
has only figures that a table shows. `python infra/readme.py` then writes the tables.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evenload.pipeline.figures.metrics import columns

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "infra" / "results"
BENCHMARKS = ROOT / "infra" / "benchmarks" / "results"
COMMANDS = {
    "quickstart": "evenload quickstart --no-serve --json",
    "five_seeds": "evenload sweep run infra/sweeps/five_seeds.yaml --json",
    "rules": "evenload simulate infra/sweeps/rules.yaml --json",
    "training": "evenload bench training --json",
    "coordinator": "evenload bench coordinator --json",
    "pages": "python -m infra.benchmarks.dashboard_pages --json",
}
PLACE = ("device", "cores", "load", "python", "versions", "commit")
OF_TRIAL = tuple(metric.name for metric in columns())
OF_RULE = ("stream", "rule", "max_vio", "floor", "steps_to_balance", "recovery_steps")
OF_PAGE = ("page", "view", "cold_seconds", "warm_seconds", "largest_chart_bytes")
OF_ARM = ("tokens_per_second", "slower_than")

Row = dict[str, Any]


def rows_of(name: str, document: Row) -> list[Row]:
    """The rows for the tables from the document of a command."""
    match name:
        case "quickstart" | "five_seeds":
            return [_trial(trial) for trial in document["trials"]]
        case "rules":
            return [_only(OF_RULE, row) for row in document["rows"]]
        case "pages":
            return [_only(OF_PAGE, page) for page in document["pages"]]
        case "coordinator":
            return [document["parts"] | {"what": "parts"}, document["sweep"] | {"what": "sweep"}]
        case _:
            return list(_training(document))


def header_of(name: str, document: Row) -> Row:
    """The first line of a file: the origin of its figures."""
    about = {
        key: document[key]
        for key in ("sweep_id", "trials", "workers", "browser")
        if isinstance(document.get(key), str | int | dict)
    }
    place = document.get("where", document)
    found = _only(PLACE, place) if "device" in place else _here()
    today = datetime.now(UTC).date().isoformat()
    return {"command": COMMANDS[name], "date": today, **found, **about}


def _here() -> Row:
    from benchmarks.hardware import describe_machine

    return describe_machine()


def _trial(trial: Row) -> Row:
    named = {
        "label": trial["label"],
        "num_experts": trial["num_experts"],
        "seed": trial["spec"]["train"]["seed"],
        "digest": trial["digest"],
    }
    return named | _only(OF_TRIAL, trial["result"])


def _training(document: Row) -> Iterable[Row]:
    for row in document["steps"]:
        shape = _only(("preset", "batch_sequences", "seq_len"), row)
        for name, arm in row["arms"].items():
            yield {"what": "step", **shape, "arm": name, **_only(OF_ARM, arm)}
    for row in document["stacks"]:
        shape = _only(("preset", "batch_sequences", "seq_len"), row)
        yield {"what": "stack", **shape, **_only(("stacked_over_apart",), row), "of": row["what"]}
    yield {"what": "overhead", **document["overhead"]}


def _only(keys: Iterable[str], row: Row) -> Row:
    return {key: row[key] for key in keys if key in row}


def _rounded(value: Any) -> Any:
    """Rounds to eight significant digits, more than any table shows."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value


def path_of(name: str) -> Path:
    folder = BENCHMARKS if name in ("training", "coordinator") else RESULTS
    return folder / f"{name}.jsonl"


def read(name: str) -> tuple[Row, list[Row]]:
    """The first line and the rows of a file."""
    header, *rows = (json.loads(line) for line in path_of(name).read_text().splitlines())
    return header, rows


def record(name: str, document: Row) -> None:
    lines = [header_of(name, document), *rows_of(name, document)]
    text = "".join(f"{json.dumps(_rounded(line))}\n" for line in lines)
    path_of(name).write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        raise SystemExit(f"name the command of standard input: {', '.join(COMMANDS)}")
    record(sys.argv[1], json.load(sys.stdin))
