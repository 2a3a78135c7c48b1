"""A checkpoint can come from anywhere, so loading one must not run code in it."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest
import torch

import evenload.workers
from evenload.workers.training import checkpoint

ROOMS = [
    Path(str(evenload.workers.__file__)).parent.parent / room
    for room in ("pipeline", "workers", "dashboard")
]


class Malice:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def test_a_checkpoint_with_code_is_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "step-00000001.pt"
    torch.save({"step": 1, "model": Malice(marker)}, path)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        checkpoint.load(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file was harmless, so this test would prove nothing"


@pytest.mark.parametrize("call", ["load", "loads", "Unpickler", "read_pickle", "unsafe_load"])
def test_nothing_unpickles(call: str) -> None:
    """torch.load only with weights_only, np.load without pickles, YAML only for plain values."""
    unsafe = []
    for room in ROOMS:
        for path in room.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and _is_unsafe(node, call):
                    unsafe.append(f"{path.relative_to(room.parent)}:{node.lineno}")
    assert unsafe == []


def _is_unsafe(node: ast.Call, call: str) -> bool:
    if not isinstance(node.func, ast.Attribute) or node.func.attr != call:
        return False
    owner = getattr(node.func.value, "id", "")
    given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
    if owner == "torch":
        return given.get("weights_only") is not True
    if owner in ("np", "numpy"):
        return bool(given.get("allow_pickle"))
    return owner in ("pickle", "cloudpickle", "dill", "joblib", "pd", "yaml")
