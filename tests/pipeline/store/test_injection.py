"""Text from outside is passed as a parameter of a statement and never becomes part of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pydantic import ValidationError

import evenload.pipeline.store
from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.store.sweep_store import SweepStore

ROOM = Path(str(evenload.pipeline.store.__file__)).parent
HOSTILE = "x'; DROP TABLE sweep; --"
BASE = {
    "model": {"preset": "tiny"},
    "balancer": {"kind": "none"},
    "train": {"steps": 2, "batch_sequences": 1, "seq_len": 8},
}


def _sweep(name: str) -> SweepSpec:
    return SweepSpec(name=name, base=BASE, axes={"train.seed": [0]})


@pytest.mark.parametrize("name", [HOSTILE, "x' OR '1'='1", "../etc", "a b", "", "<script>"])
def test_a_hostile_sweep_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        _sweep(name)


@pytest.mark.parametrize("hostile", [HOSTILE, "x' OR '1'='1", "%", "\0"])
def test_a_hostile_id_finds_nothing_and_harms_nothing(tmp_path: Path, hostile: str) -> None:
    store = SweepStore(Settings(home=tmp_path).store_url)
    store.migrate()
    sweep_id = store.submit(_sweep("kept"))
    for ask in (store.sweep, store.trials, store.pause, store.cancel, store.trial):
        with pytest.raises(SpecError):
            ask(hostile)
    assert store.claim(hostile, "train", hostile, 1.0) is None  # type: ignore[arg-type]
    assert [sweep.sweep_id for sweep in store.sweeps()] == [sweep_id]
    store.close()


def test_no_sql_text_is_built_from_parts() -> None:
    """SQL as text must be a constant, or it must name a column through the compiler."""
    found = []
    for path in sorted(ROOM.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _name(node) in ("text", "exec_driver_sql"):
                built = [
                    n for n in ast.walk(node.args[0]) if isinstance(n, ast.JoinedStr | ast.BinOp)
                ]
                found += [f"{path.name}:{node.lineno}"] * bool(built)
    assert found == []


def _name(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
