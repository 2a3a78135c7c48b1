from __future__ import annotations

import os
import socket
import subprocess
import sys

from evenload.pipeline.sweep.worker_id import is_dead_here, name_of, worker_id

HERE = socket.gethostname()


def test_an_id_holds_name_host_and_process() -> None:
    assert worker_id("train-1") == f"train-1@{HERE}:{os.getpid()}"
    assert name_of(worker_id("train-1")) == "train-1"


def test_a_living_process_is_not_dead() -> None:
    assert not is_dead_here(worker_id("train-1"))
    assert not is_dead_here(f"train-1@{HERE}:1")


def test_a_process_that_ended_is_dead_on_its_own_host_only() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert is_dead_here(f"train-1@{HERE}:{ended.pid}")
    assert not is_dead_here(f"train-1@{HERE}-other:{ended.pid}")


def test_an_id_without_a_process_is_never_reported_dead() -> None:
    assert not is_dead_here("somebody")
    assert not is_dead_here(f"somebody@{HERE}")
