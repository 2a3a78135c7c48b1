"""Bad input gives one clear message and exit code 2, and starts and loses nothing."""

from __future__ import annotations

import os
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
    assert listed.code == 2
    assert "no store here" in listed.document["error"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "run", "absent.yaml"], ["absent.yaml", "No such file"]),
        (["train", "absent.yaml"], ["absent.yaml", "No such file"]),
        (["sweep", "status", "no-such-sweep"], ["no store here"]),
        (["sweep", "cancel", "no-such-sweep"], ["no store here"]),
        (["sweep", "run", "x.yaml", "--slots", "0"], ["--slots"]),
        (["frobnicate"], ["frobnicate"]),
    ],
)
def test_bad_arguments_exit_with_2_and_a_reason(
    arguments: list[str], words: list[str], here: Any
) -> None:
    ended = here(*arguments)
    assert ended.code == 2
    assert [word for word in words if word not in ended.err] == [], ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", [["sweep", "list"], ["sweep", "plan", "good.yaml"]])
@pytest.mark.parametrize("home", ["a-file", "a-file/below"])
def test_a_home_that_is_not_a_folder_is_refused(
    command: list[str], home: str, here: Any, sweep: Callable[..., dict[str, Any]]
) -> None:
    here.write("good.yaml", sweep())
    here.write("a-file", "x")
    ended = here(*command, "--home", home)
    assert ended.code == 2
    remedy = "set EVENLOAD_HOME or --home to a folder that can be written"
    assert ended.err == f"error: home={home!r}: Not a directory; {remedy}\n"


def test_a_read_only_home_is_refused_for_a_corpus(
    here: Any, sweep: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    ended = here("sweep", "plan", here.write("good.yaml", sweep()))
    assert (ended.code, ended.err[:42]) == (2, "error: home='.evenload': Permission denied")


@pytest.mark.parametrize("home", ["a-file", "a-file/below/that"])
def test_doctor_detects_a_home_that_is_not_a_folder(home: str, here: Any) -> None:
    here.write("a-file", "x")
    ended = here("doctor", "--json", "--home", home)
    store = next(check for check in ended.document["checks"] if check["part"] == "store")
    assert (ended.code, store["usable"]) == (1, False)
    assert f"home={home!r}: Not a directory" in store["detail"]


def test_a_bad_environment_variable_is_named_with_its_value(
    here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENLOAD_LEASE_SECONDS", "soon")
    ended = here("sweep", "list")
    assert ended.code == 2
    assert 'EVENLOAD_LEASE_SECONDS="soon": must be a number' in ended.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": "banana"}, ['device="banana"', "pattern"]),
        ({"device": "cuda:99"}, ["device='cuda:99'", "CUDA devices; use cpu"]),
        ({"tokens": 10**14}, ["tokens=100000000000000", "GiB; the host has", "lower tokens"]),
    ],
)
def test_a_simulation_that_cannot_run_here_is_refused(
    changes: dict[str, Any], words: list[str], here: Any
) -> None:
    small = {"streams": {"still": {"kind": "gaussian"}}, "rules": [{"kind": "none"}]}
    ended = here("simulate", here.write("simulation.yaml", small | changes))
    assert ended.code == 2
    assert [word for word in words if word not in ended.err] == [], ended.err
    assert ended.err.strip().count("\n") == 0


def test_advice_without_a_recording_is_refused(here: Any) -> None:
    here.write("bin.txt", "x")
    ended = here("advise", "bin.txt")
    remedy = (
        "not a recording of scores; make one with `evenload train --record-scores` or "
        "`evenload.attach(record_scores=)`"
    )
    assert (ended.code, ended.err) == (2, f"error: bin.txt: {remedy}\n")
