"""Writes the blocks of README.md that follow from the code and from recorded results.

    python infra/readme.py            rewrites them
    python infra/readme.py --check    exit code 1 where one is out of date

Results are JSON documents as commands print them, kept in infra/results without what is of one
machine only (paths, workers, run ids):
    evenload quickstart --no-serve --json | python infra/readme.py --record quickstart
    evenload sweep run infra/sweeps/five_seeds.yaml --json |
        python infra/readme.py --record five_seeds
    evenload simulate infra/sweeps/rules.yaml --json | python infra/readme.py --record rules
    python -m infra.benchmarks --json | python infra/readme.py --record pages
Those of `evenload bench NAME --json` lie as they are in infra/benchmarks/results/NAME.json.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t

from evenload.pipeline.spec.balancers import BALANCERS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "infra" / "results"
BENCHMARKS = ROOT / "infra" / "benchmarks" / "results"
EVENLOAD = ("evenload", "evenload, compiled")  # of the benchmark's arms
ROOMS = ("pipeline", "workers", "dashboard")
LOCAL_KEYS = ("checkpoint_uri", "worker", "run_id")
INFRA = {
    "install.sh": "Makes or updates .venv; decides between a CPU and a CUDA build of torch",
    "quickstart.sh": "From a fresh clone to a finished sweep and its dashboard",
    "test.sh": "Everything that must hold",
    "constraints.txt": "The versions that the tests ran with",
    "Dockerfile": "Two images: workers, and a small one for the dashboard",
    "requirements.py": "What an image installs, read from pyproject.toml",
    "evenload": "The command inside the workers image",
    "benchmarks/": "Benchmarks against rivals, and their recorded results",
    "research/": "Experiments and rules that lost, with their log",
    "package/": "Joins pipeline, workers and dashboard into the one package `evenload`",
    "k8s/": "Manifests for Kubernetes with KubeRay",
    "monitoring/": "Prometheus, alerts and the Grafana dashboard of the monitoring profile",
    "postgres/": "What the compose stack's database starts with",
    "secrets.sh": "Generates the compose stack's passwords and tokens",
    "health.py": "Health checks of the containers",
    "README.md": "Operations: sizing, upgrades, backup, what to do when a part is down",
    "pictures.py": "Takes the pictures of this page from a finished sweep",
    "pictures/": "The pictures of this page",
    "readme.py": "Writes this tree and the tables of this page",
    "results/": "The recorded figures of this page, as commands printed them",
    "sweeps/": "Example sweeps, a trial and simulations",
}


def tree() -> str:
    """Every source file with the first sentence of its docstring."""
    check_infra_is_complete()
    lines: list[str] = []
    for room in ROOMS:
        _add_folder(lines, ROOT / room, depth=0)
    lines += [_line(0, "infra/", ""), *(_line(1, name, note) for name, note in INFRA.items())]
    return "\n".join(lines)


def check_infra_is_complete() -> None:
    present = {path.name for path in (ROOT / "infra").iterdir() if path.name != "__pycache__"}
    if missing := present ^ {name.rstrip("/") for name in INFRA}:
        raise SystemExit(f"infra/readme.py: INFRA and infra/ differ in {', '.join(missing)}")


def _add_folder(lines: list[str], folder: Path, depth: int) -> None:
    lines.append(_line(depth, f"{folder.name}/", ""))
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir() and any(path.glob("*.py")) and path.name != "versions":
            _add_folder(lines, path, depth + 1)
        elif path.suffix == ".py" and path.name != "__init__.py":
            lines.append(_line(depth + 1, path.name, _phrase(path)))


def _phrase(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)`])\.(?: |$)", paragraph)[0].rstrip(".")


def _line(depth: int, name: str, note: str) -> str:
    return f"    {'  ' * depth}{name:<{26 - 2 * depth}}{note}".rstrip()


def rules() -> str:
    rows = [
        (
            f"`{kind}`",
            f"{rule.summary}{' (control)' if rule.control else ''}",
            ", ".join(f"{name} {default}" for name, (_, default) in rule.params.items()) or "none",
        )
        for kind, rule in BALANCERS.items()
    ]
    return _table(("rule", "what it does", "parameters and defaults"), rows)


def quickstart() -> str:
    document = json.loads((RESULTS / "quickstart.json").read_text())
    rows = [_trial_row(trial) for trial in document["trials"]]
    titles = ("rule", "experts", "val bits/byte", "MaxVio global", "MaxVio batch", "floor")
    table = _table((*titles, "idle", "dead", "utilisation", "tokens/s"), rows)
    return f"{table}\n\n> {document['recommendation']}"


def seeds() -> str:
    """Means over seeds with 95 % intervals; the difference to no balancing is paired by seed."""
    by_label: dict[str, list[dict[str, float]]] = {}
    for trial in json.loads((RESULTS / "five_seeds.json").read_text())["trials"]:
        by_label.setdefault(trial["label"], []).append(trial["result"])
    control = [result["val_bits_per_byte"] for result in by_label["none"]]
    rows = [_seed_row(label, results, control) for label, results in by_label.items()]
    titles = ("rule", "val bits/byte", "against none", "MaxVio batch", "MaxVio global")
    return _table((*titles, "idle", "utilisation"), rows)


def _seed_row(label: str, results: list[dict[str, float]], control: list[float]) -> tuple[str, ...]:
    loss = [result["val_bits_per_byte"] for result in results]
    gain = [mine - other for mine, other in zip(loss, control, strict=True)]
    return (
        label,
        _interval(loss, "{:.3f}"),
        "-" if label == "none" else _interval(gain, "{:+.3f}"),
        *(
            _interval([r[name] for r in results], "{:.2f}")
            for name in ("max_vio", "max_vio_global")
        ),
        f"{fmean(r['idle_frac'] for r in results):.1%}",
        f"{fmean(r['effective_util'] for r in results):.0%}",
    )


def _interval(values: list[float], pattern: str) -> str:
    """Mean and the half width of its 95 % interval by Student's t."""
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{pattern.format(fmean(values))} ± {pattern.replace('+', '').format(half)}"


def simulation() -> str:
    """Steady MaxVio by stream and rule, with steps to balance and to recover."""
    document = json.loads((RESULTS / "rules.json").read_text())
    streams = list(document["spec"]["streams"])
    cells: dict[str, dict[str, Any]] = {}
    for row in document["rows"]:
        cells.setdefault(row["rule"], {})[row["stream"]] = row
    rows = [
        (
            rule,
            *(f"{found[stream]['max_vio']:.3f}" for stream in streams),
            _steps(found[streams[0]]["steps_to_balance"]),
            _steps(found[streams[-1]]["recovery_steps"]),
        )
        for rule, found in cells.items()
    ]
    return _table(("rule", *streams, "cold start", "after the jump"), rows)


def _steps(count: int | None) -> str:
    return "never" if count is None else str(count)


def training() -> str:
    """Steps against rivals and stacks against their trials apart, from one run each."""
    document = json.loads((BENCHMARKS / "training.json").read_text())
    steps = [
        (
            _shape(row),
            name,
            f"{arm['tokens_per_second']:,.0f}",
            *(_ratio(arm["slower_than"][own], "{:.2f}") for own in EVENLOAD),
        )
        for row in document["steps"]
        for name, arm in row["arms"].items()
    ]
    stacks = [
        (_shape(row), row["what"], _ratio(row["stacked_over_apart"], "{:.2f}"))
        for row in document["stacks"]
    ]
    over = (f"{own} over it" for own in EVENLOAD)
    overhead = document["overhead"]
    bare, own = (_ratio(overhead[name], "{:+.1%}") for name in ("over_bare_loop", "over_own_steps"))
    return "\n\n".join(
        [
            _measured_on(document),
            _table(("model, sequences x tokens", "step of", "tokens/s", *over), steps),
            _table(("8 trials, sequences x tokens each", "of", "stacked over in turn"), stacks),
            f"A trial of {overhead['steps']} steps with all that is recorded takes {own} more than "
            f"its steps. Against a bare loop it is {bare}, which says more of the machine's noise.",
        ]
    )


def coordinator() -> str:
    document = json.loads((BENCHMARKS / "coordinator.json").read_text())
    parts, sweep = document["parts"], document["sweep"]
    rows = [(name, f"{1e3 * seconds:,.1f}") for name, seconds in parts.items()]
    return "\n\n".join(
        [
            _measured_on(document),
            _table((f"at {document['trials']:,} waiting trials", "ms"), rows),
            f"{document['trials']:,} trials over {document['workers']:,} simulated workers: "
            f"{sweep['seconds']:,.0f} s of computing, {sweep['restarts']} coordinators killed, "
            f"{sweep['deaths']} attempts killed, {sweep['completed']:,} completed, "
            f"{sweep['trained_twice']} trained twice, {sweep['memory_bytes'] / 2**20:.0f} MiB.",
        ]
    )


def pages() -> str:
    document = json.loads((RESULTS / "pages.json").read_text())
    rows = [
        (
            f"{page['page']} {page['view']}".strip(),
            f"{page['cold_seconds']:.2f}",
            f"{page['warm_seconds']:.2f}",
            f"{page['largest_chart_bytes'] / 1e3:,.0f}",
        )
        for page in document["pages"]
    ]
    return "\n\n".join(
        [
            _measured_on(document["where"]),
            _table(("page", "cold, s", "warm, s", "largest chart, KB"), rows),
            "In a browser the page of the long run is there after "
            f"{document['browser']['first_seconds']:.1f} s the first time, "
            f"{document['browser']['again_seconds']:.1f} s again.",
        ]
    )


def _measured_on(where: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    commit = f", commit {where['commit'][:7]}" if where.get("commit") else ""
    return (
        f"{where['device']}, {where['cores']} cores, load {where['load']:.1f}, "
        f"Python {where['python']}, {versions}{commit}:"
    )


def _shape(row: dict[str, Any]) -> str:
    return f"{row['preset']}, {row['batch_sequences']} x {row['seq_len']}"


def _ratio(found: dict[str, float], pattern: str) -> str:
    """The median with its quartiles."""
    low, median, high = (pattern.format(found[name]) for name in ("low", "median", "high"))
    return f"{median} ({low} to {high})"


def _trial_row(trial: dict[str, Any]) -> tuple[str, ...]:
    result = trial["result"]
    return (
        trial["label"],
        str(trial["num_experts"]),
        f"{result['val_bits_per_byte']:.3f}",
        *(f"{result[name]:.2f}" for name in ("max_vio_global", "max_vio", "max_vio_floor")),
        *(f"{result[name]:.1%}" for name in ("idle_frac", "dead_tenth")),
        f"{result['effective_util']:.0%}",
        f"{result['tokens_per_second']:,.0f}",
    )


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


BLOCKS: dict[str, Callable[[], str]] = {
    "tree": tree,
    "rules": rules,
    "quickstart": quickstart,
    "seeds": seeds,
    "simulation": simulation,
    "training": training,
    "coordinator": coordinator,
    "pages": pages,
}


def updated(readme: str) -> str:
    """The README with every block between its two markers written anew."""
    for name, write in BLOCKS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, rest = readme.split(begin)
        _, after = rest.split(end)
        readme = f"{before}{begin}\n\n{write()}\n\n{end}{after}"
    return readme


def record(name: str, document: dict[str, Any]) -> None:
    for trial in document.get("trials", ()):
        for key in LOCAL_KEYS:
            trial.pop(key, None)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def main() -> int:
    if "--record" in sys.argv:
        record(sys.argv[-1], json.load(sys.stdin))
    path = ROOT / "README.md"
    current = path.read_text(encoding="utf-8")
    wanted = updated(current)
    if "--check" in sys.argv:
        return int(wanted != current)
    path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
