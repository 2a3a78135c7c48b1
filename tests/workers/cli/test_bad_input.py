"""Bad input: one clear message, exit code 2, nothing started, nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key": ({"base": {"trian": {}}}, ["trian", "unknown key"]),
    "wrong type": ({"train": {"steps": "many"}}, ["train.steps", '"many"', "integer"]),
    "top_k too large": ({"model": {"top_k": 9}}, ["top_k=9", "num_experts=8", "lower"]),
    "empty axes": ({"axes": {"balancer": []}}, ["axes.balancer", "at least 1"]),
    "corpus too small": ({"train": {"batch_sequences": 8192}}, ["batch_sequences=8192", "lower"]),
    "missing file": ({"data": {"kind": "files", "glob": "/nowhere/*"}}, ["/nowhere/*", "no file"]),
    "unusable device": ({"runtime": {"device": "cuda"}}, ["device='cuda'", "use cpu"]),
    "unusable back end": ({"runtime": {"backend": "triton"}}, ["backend='triton'", "torch"]),
    "too large for memory": (
        {"model": {"d_model": 65536, "d_expert": 65536}},
        ["none with 8 experts needs about", "GiB", "the host has", "smaller model"],
    ),
    "width off the grid": ({"model": {"d_expert": 18}}, ["d_expert=18", "multiple of 4"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_sweep_is_refused_before_anything_starts(
    case: str, here: Any, sweep: Callable[..., dict[str, Any]]
) -> None:
    changes, words = CASES[case]
    tree = sweep(**{key: part for key, part in changes.items() if key not in ("axes", "base")})
    if case == "missing file":
        tree["base"]["data"] = changes["data"]
        tree["base"]["model"]["vocab_size"] = 256
    tree["axes"] = changes.get("axes", tree["axes"])
    tree["base"] |= changes.get("base", {})
    ended = here("sweep", "run", here.write("bad.yaml", tree))
    assert ended.code == 2
    assert [word for word in words if word not in ended.err] == [], ended.err
    assert ended.err.strip().count("\n") == 0, "one message, no traceback"
    listed = here("sweep", "list", "--json")
    assert (listed.code, listed.document) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "run", "absent.yaml"], ["absent.yaml", "No such file"]),
        (["train", "absent.yaml"], ["absent.yaml", "No such file"]),
        (["sweep", "status", "no-such-sweep"], ["no-such-sweep"]),
        (["sweep", "cancel", "no-such-sweep"], ["no-such-sweep"]),
        (["sweep", "run", "x.yaml", "--slots", "0"], ["--slots"]),
        (["frobnicate"], ["frobnicate"]),
    ],
)
def test_bad_arguments_exit_with_2_and_say_why(
    arguments: list[str], words: list[str], here: Any
) -> None:
    ended = here(*arguments)
    assert ended.code == 2
    assert [word for word in words if word not in ended.err] == [], ended.err
    assert "Traceback" not in ended.err
