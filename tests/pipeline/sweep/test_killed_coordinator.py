from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from evenload.pipeline.processes import process_id
from evenload.pipeline.states import TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep import coordinator as coordinator_module
from evenload.pipeline.sweep import plan as plan_module
from evenload.pipeline.sweep.coordinator import Coordinator
from tests.pipeline.sweep import fake_executor
from tests.pipeline.sweep.fake_executor import EVAL, TRAIN, FakeExecutor, run, verdicts

pytestmark = pytest.mark.usefixtures("observed")


@pytest.fixture(scope="module")
def dead_process() -> str:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return f"{process_id().rpartition(':')[0]}:{ended.pid}"


class Killed(BaseException):
    """Simulates kill -9: no code under test catches it."""


COORDINATOR = (coordinator_module.__file__, plan_module.__file__)
SAMPLED = 13  # no multiple of 3, so that early, late and between all occur
Line = tuple[str, int]


def lines_of(
    call: Callable[[], object], files: tuple[str, ...], kill_at: tuple[Line, int] | None = None
) -> Counter[Line]:
    """Counts how often a call runs each line of these files.

    Args:     kill_at: (line, n): raise Killed before the n-th execution of the line
    """
    executed: Counter[Line] = Counter()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            line = (frame.f_code.co_filename, frame.f_lineno)
            executed[line] += 1
            if (line, executed[line]) == kill_at:
                raise Killed
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return executed


@pytest.mark.parametrize("workers_survive", [True, False])
@pytest.mark.parametrize("every", [SAMPLED, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_line_and_started_again_it_ends_with_the_same_trials(
    tmp_path: Path,
    store: SweepStore,
    add_sweep: Callable[[int], str],
    dead_process: str,
    workers_survive: bool,
    every: int,
) -> None:
    """`workers_survive`: whether the killed coordinator's workers continue or die with it.

    The slow tests kill it at each line, the others at one line in `every`.
    """
    sweep_id = add_sweep(2)
    store.close()  # moves everything into the one file that is copied
    files = COORDINATOR if workers_survive else (*COORDINATOR, fake_executor.__file__)
    process = "" if workers_survive else dead_process
    copy = SweepStore(f"sqlite:///{tmp_path / 'copy.db'}")

    def killed_and_started_again(at: tuple[Line, int] | None) -> Counter[Line]:
        shutil.copy(tmp_path / "store.db", tmp_path / "copy.db")
        first = FakeExecutor(copy, process=process, name="first")
        coordinator = Coordinator(copy, first, poll_seconds=0)
        executed: Counter[Line] = Counter()
        with contextlib.suppress(Killed):
            executed = lines_of(lambda: coordinator._run((sweep_id,)), files, at)
        second = FakeExecutor(copy, name="second")
        advance = first.wait if workers_survive else lambda seconds: None
        assert run(copy, second, sweep_id, observer=lambda _: advance(0))
        for trial in copy.trials(sweep_id):
            assert (trial.state, trial.failures) == (TrialState.COMPLETED, 0), at
            assert verdicts(copy, trial.digest) == [TRAIN, EVAL], at
        copy.close()
        (tmp_path / "copy.db").unlink()
        return executed

    uninterrupted = killed_and_started_again(None)
    assert len(uninterrupted) > 60
    for at, (line, times) in list(enumerate(uninterrupted.items()))[::every]:
        early_late_or_between = (1, times, (1 + times) // 2)[at % 3]
        killed_and_started_again((line, early_late_or_between))
