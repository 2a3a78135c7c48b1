"""What a call in a process of its own can do to the service: nothing."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.workers.cli.limited_calls import LimitedCalls


def answer(calls: LimitedCalls, call: Any, *arguments: Any) -> Any:
    while (found := calls.ask("sweep", call, *arguments)) is None:
        time.sleep(0.01)
    return found


def allocate(gib: int) -> int:
    return np.ones(gib * 2**27).nbytes


@pytest.mark.slow
def test_limits_and_deaths_end_a_call_and_the_next_one_is_answered() -> None:
    calls = LimitedCalls(Settings(prepare_gib=1.0, prepare_seconds=60.0))
    assert answer(calls, max, 1, 2) == 2
    with pytest.raises(SpecError, match=r"more than 1.0 GiB .* EVENLOAD_PREPARE_GIB"):
        answer(calls, allocate, 3)
    with pytest.raises(SpecError, match=r"not prepared within 0\.5 s"):
        answer(LimitedCalls(Settings(prepare_seconds=0.5)), time.sleep, 60)
    with pytest.raises(SpecError, match="ended with exit code 3"):
        answer(calls, os._exit, 3)
    with pytest.raises(SpecError, match="UnicodeDecodeError: 'utf-8' codec"):
        answer(calls, bytes.decode, b"\xff")
    assert answer(calls, max, 3, 2) == 3
