"""Whatever a file holds, a command ends with 0, 1 or 2 and one message, never with a traceback."""

from __future__ import annotations

import copy
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.cli import main, session
from tests.workers.cli.conftest import SWEEP, Ended

EXAMPLES = int(os.environ.get("EVENLOAD_FUZZ", 5))
SIMULATION: dict[str, Any] = {
    "tokens": 64,
    "num_experts": 8,
    "top_k": 2,
    "steps": 4,
    "seeds": 1,
    "streams": {"still": {"kind": "gaussian"}, "zipf": {"kind": "zipf"}},
    "rules": [{"kind": "sign", "step_size": [0.1, 0.2]}, {"kind": "none"}],
}
TEXTS = {"kind": "files", "glob": "data.jsonl", "group_column": "topic"}
SWEEP_OF_TEXTS = SWEEP | {
    "base": SWEEP["base"] | {"data": TEXTS, "model": SWEEP["base"]["model"] | {"vocab_size": 256}}
}
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="EVENLOAD_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
    database=None,
)

SIGNS = "abk:- []{}&*!?'\"\n\t#%"
odd_numbers = st.sampled_from([0, -1, 1, 2, 10**6, 10**12, 2**31, 2**63, 1e308, 1e-308, 0.5])
odd_texts = st.sampled_from(["", "off", "~", "$HOME", "../x", "[a", "\0", "ü", "1e-4", "x" * 300])
odd_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | odd_numbers | st.floats() | odd_texts | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "low", "high", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    former = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(former)


def run(folder: Path, *arguments: str) -> Ended:
    """Runs the command in this process."""
    out, err, argv = StringIO(), StringIO(), sys.argv
    session.documents.clear()
    sys.argv = ["evenload", *arguments]
    try:
        with inside(folder), redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        return Ended(int(end.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = argv
    raise AssertionError("main always exits")


def assert_civil(ended: Ended) -> None:
    assert ended.code in (0, 1, 2)
    said = ended.out + ended.err
    assert "Traceback" not in said, said[-3000:]
    assert "report this" not in said, said[-3000:]
    if ended.code:
        assert set(json.loads(ended.out)) & {"error", "refused", "checks"}
        assert len(ended.err) < 3000, ended.err


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values of a tree."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree))
    found = [(*at, key) for key in keys]
    return found + [
        place
        for key in keys
        if isinstance(tree[key], dict | list)
        for place in places(tree[key], (*at, key))
    ]


def replaced(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(tree)
    *above, last = place
    inner = changed
    for key in above:
        inner = inner[key]
    inner[last] = value
    return changed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


SPECS = {"sweep": SWEEP, "trial": SWEEP["base"], "simulation": SIMULATION}
changes = st.sampled_from(sorted(SPECS)).flatmap(
    lambda kind: st.tuples(
        st.just(kind), st.sampled_from(places(SPECS[kind])), odd_values, st.booleans()
    )
)


@fuzz
@example(("simulation", ("steps",), 1, False))
@example(("simulation", ("rules", 0, "step_size"), 1e308, False))
@example(("simulation", ("num_experts",), 10**9, False))
@example(("sweep", ("axes",), {"x": [{"low": 1, "high": 2}]}, False))
@example(("sweep", ("base", "data", "num_tokens"), 10**12, False))
@given(changes)
def test_specs(folder: Path, change: tuple[str, tuple[Any, ...], Any, bool]) -> None:
    kind, place, value, only_shown = change
    (folder / "spec.yaml").write_text(yaml.safe_dump(replaced(SPECS[kind], place, value)))
    command = {"sweep": ["sweep", "plan"], "simulation": ["simulate"]}.get(kind, ["spec", "show"])
    assert_civil(run(folder, *(["spec", "show"] if only_shown else command), "spec.yaml", "--json"))


@fuzz
@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="replace"))
)
def test_spec_bytes(folder: Path, content: bytes) -> None:
    (folder / "bytes.yaml").write_bytes(content)
    assert_civil(run(folder, "spec", "show", "bytes.yaml", "--json"))


LINES = [{"text": f"{n} " * 400, "topic": "even" if n % 2 else n} for n in range(12)]


@fuzz
@example({"text": "\ud800" * 500})
@example(b"[" * 100_000)
@example(b"\xff")
@given(
    st.binary(max_size=40)
    | st.dictionaries(st.sampled_from(["text", "topic", "x"]), odd_values, max_size=3)
)
def test_data(folder: Path, line: Any) -> None:
    rows = [json.dumps(row).encode() for row in LINES]
    rows.insert(6, line if isinstance(line, bytes) else json.dumps(line).encode())
    (folder / "data.jsonl").write_bytes(b"\n".join(rows))
    (folder / "texts.yaml").write_text(yaml.safe_dump(SWEEP_OF_TEXTS))
    assert_civil(run(folder, "sweep", "plan", "texts.yaml", "--json"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A store with a sweep of two trials."""
    home = tmp_path_factory.mktemp("whole")
    spec = SweepSpec.model_validate(SWEEP)
    store = SweepStore(Settings(home=home).store_url)
    store.migrate()
    store.add_sweep(spec, [(f"{n:016x}", trial) for n, trial in enumerate(spec.expand())])
    store.close()
    with closing(sqlite3.connect(home / "evenload.db")) as database:
        database.execute("PRAGMA journal_mode = DELETE")
    return (home / "evenload.db").read_bytes()


shares = st.floats(0, 1, exclude_max=True)


@fuzz
@example(0.999, [(0.0, 0)])
@example(0.5, [])
@example(0.01, [])
@given(shares, st.lists(st.tuples(shares, st.integers(0, 7)), max_size=8))
def test_state_files(
    folder: Path, whole: bytes, kept: float, flips: list[tuple[float, int]]
) -> None:
    home = folder / ".damaged"
    home.mkdir(exist_ok=True)
    for left in home.iterdir():
        left.unlink()
    broken = bytearray(whole[: 1 + int(kept * len(whole))])
    for at, bit in flips:
        broken[int(at * len(broken))] ^= 1 << bit
    (home / "evenload.db").write_bytes(broken)
    sweep_id = SweepSpec.model_validate(SWEEP).sweep_id()
    for command in (["sweep", "list"], ["sweep", "status", sweep_id]):
        assert_civil(run(folder, *command, "--json", "--home", str(home)))


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", "status", "no-such"],
        ["train", "absent.yaml"],
        ["sweep", "run", "x.yaml", "--slots", "0"],
        ["report"],
        ["audit", "x", "--frobnicate"],
    ],
)
def test_an_error_is_json_if_json_was_asked_for(folder: Path, arguments: list[str]) -> None:
    plain, as_json = run(folder, *arguments), run(folder, *arguments, "--json")
    assert (plain.code, as_json.code) == (2, 2)
    assert plain.out == ""
    assert list(as_json.document) == ["error"]
    assert as_json.document["error"] in as_json.err


@pytest.mark.parametrize("command", [["sweep", "list"], ["audit", "x"], ["sweep", "pause", "x"]])
def test_who_only_reads_makes_no_store(tmp_path: Path, command: list[str]) -> None:
    ended = run(tmp_path, *command)
    assert (ended.code, "no store here" in ended.err) == (2, True)
    assert list(tmp_path.iterdir()) == []
