from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from evenload.pipeline import processes
from evenload.pipeline.processes import is_running, process_id
from evenload.pipeline.sweep.worker_id import is_dead_here, name_of, worker_id

HOST, MACHINE, START, PID = process_id().split(":")


def test_an_id_holds_name_host_and_process() -> None:
    assert worker_id("train-1") == f"train-1@{HOST}:{MACHINE}:{START}:{PID}"
    assert (socket.gethostname(), str(os.getpid())) == (HOST, PID)
    assert name_of(worker_id("train-1")) == "train-1"


def test_a_living_process_is_not_dead() -> None:
    assert is_running(process_id()) is True
    assert not is_dead_here(worker_id("train-1"))


def test_a_process_that_ended_is_dead_also_before_its_parent_notices() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        theirs = f"{HOST}:{MACHINE}:{processes._start(child.pid)}:{child.pid}"
        assert is_running(theirs) is True
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_running(theirs) is False
    assert is_dead_here(f"train-1@{theirs}")


def test_a_process_that_has_the_number_of_an_ended_one_is_not_taken_for_it() -> None:
    assert is_dead_here(f"train-1@{HOST}:{MACHINE}:{int(START) - 1}:{PID}")


@pytest.mark.parametrize("other", ["another boot", "another container"])
def test_a_process_of_another_machine_with_the_same_host_name_is_not_judged(other: str) -> None:
    assert is_running(f"{HOST}:{hash(other)}:{START}:1999999999") is None
    assert not is_dead_here(f"train-1@{HOST}:{hash(other)}:{START}:1999999999")


def test_boot_and_process_namespace_make_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(os, "readlink", lambda _: "pid:[42]")
    processes._machine.cache_clear()
    try:
        assert processes._machine() != MACHINE
    finally:
        processes._machine.cache_clear()


@pytest.mark.parametrize("old", ["somebody", f"somebody@{HOST}", f"somebody@{HOST}:1999999999"])
def test_an_id_that_does_not_tell_its_process_is_never_reported_dead(old: str) -> None:
    assert not is_dead_here(old)
