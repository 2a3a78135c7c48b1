"""Times the pages of the dashboard on a very large generated home.

python -m infra.benchmarks.dashboard_pages               # generates, measures, removes; a table
python -m infra.benchmarks.dashboard_pages --json > out.json
python -m infra.benchmarks.dashboard_pages --home DIR    # keeps the home for the next time
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from infra.benchmarks.browser_timing import measure_browser
from infra.benchmarks.generated_home import build

# Each page, and the part of its address after the ids.
PAGES: tuple[tuple[str, dict[str, str]], ...] = (
    ("run", {"view": "Load"}),
    ("run", {"view": "Balance"}),
    ("run", {"view": "Biases"}),
    ("run", {"view": "Training"}),
    ("run", {"view": "Record"}),
    ("compare", {}),
    ("sweep", {"view": "Answer"}),
    ("sweep", {"view": "Front"}),
    ("sweep", {"view": "Curves"}),
    ("sweep", {"view": "Runs"}),
    ("sweeps", {}),
)
LIMITS = {"cold_seconds": 2.0, "warm_seconds": 0.3, "largest_chart_bytes": 300_000}


def main() -> None:
    given = _arguments()
    if given.home is not None:
        document = _measured(given.home, given)
    else:
        with tempfile.TemporaryDirectory(prefix="evenload-benchmark-") as folder:
            document = _measured(Path(folder) / "home", given)
    print(json.dumps(document, indent=1) if given.json else _table(document))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m infra.benchmarks",
        description="Time every page on a generated home. Needs about 1 GB of disk.",
    )
    parser.add_argument("--steps", type=int, default=100_000, help="steps of the long run")
    parser.add_argument("--layers", type=int, default=26, help="expert layers of the long run")
    parser.add_argument("--experts", type=int, default=64, help="experts of the long run")
    parser.add_argument("--trials", type=int, default=500, help="trials of the wide sweep")
    parser.add_argument("--home", type=Path, help="folder to generate the home in, or to reuse")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    return parser.parse_args()


def _measured(home: Path, given: argparse.Namespace) -> dict[str, Any]:
    ids_file = home / "benchmark.json"
    size = {name: getattr(given, name) for name in ("steps", "layers", "experts", "trials")}
    started = time.perf_counter()
    if ids_file.exists():
        ids = json.loads(ids_file.read_text())
        if ids["size"] != size:
            print(f"{home} has the size {ids['size']}; choose another --home", file=sys.stderr)
            raise SystemExit(2)
    else:
        ids = build(home, **size) | {"size": size}
        ids_file.write_text(json.dumps(ids))
    generated = time.perf_counter() - started
    return {
        "size": size,
        "generate_seconds": round(generated, 1),
        "run_megabytes": round(_bytes(home / "trials" / ids["run"]) / 1e6, 1),
        "where": _where(),
        "limits": LIMITS,
        "pages": [_page(home, page, _query(page, ids) | rest) for page, rest in PAGES],
        "browser": measure_browser(home, f"run?run={ids['run']}", charts=2),
    }


def _query(page: str, ids: dict[str, str]) -> dict[str, str]:
    return {
        "run": {"run": ids["run"]},
        "compare": {"runs": f"{ids['run']},{ids['small']}"},
        "sweep": {"sweep": ids["sweep"]},
    }.get(page, {})


def _page(home: Path, page: str, query: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "infra.benchmarks.page_timing", page]
    result = subprocess.run(
        command + [f"{name}={value}" for name, value in query.items()],
        env=os.environ | {"EVENLOAD_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise SystemExit(f"{page} {query}: {result.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(result.stdout.splitlines()[-1]))


def _where() -> dict[str, Any]:
    """The machine and the versions. `load` above 1 per core is too high for a measurement."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "device": next(names, platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("streamlit", "altair", "pyarrow", "numpy")},
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _table(document: dict[str, Any]) -> str:
    lines = ["| page | cold, s | warm, s | charts | largest, KB |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['page']} {row['view']} | {row['cold_seconds']:.2f} | {row['warm_seconds']:.2f} "
        f"| {row['charts']} | {row['largest_chart_bytes'] / 1e3:.0f} |"
        for row in document["pages"]
    ]
    browser = document["browser"]
    if browser is not None:
        lines.append(
            f"\nIn a browser, from the address of the long run to its figures: "
            f"{browser['first_seconds']:.2f} s the first time, "
            f"{browser['again_seconds']:.2f} s again."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
