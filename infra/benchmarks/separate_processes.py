"""Arms in processes of their own: what one sets for its process, its memory say, helps no other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from evenload.workers.tuning.timing import seconds_of
from infra.benchmarks.language_models import Arm
from infra.benchmarks.step_profile import time_by_kind

CPU = torch.device("cpu")
COLD_STEPS = 2  # the first compiles where anything is compiled


class Apart:
    """An arm, warm, that takes its steps in a process that does nothing else.

    Args:     make: builds the arm over there; it must survive pickling
    Raises:   RuntimeError: it died, here or at a later call
    """

    def __init__(self, make: Callable[[], Arm]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.parameters, self.experts, self.warm_seconds = self._answer()

    def step(self) -> None:
        self._connection.send("step")
        self._answer()

    def milliseconds_by_kind(self) -> dict[str, float]:
        self._connection.send("profile")
        kinds: dict[str, float] = self._answer()
        return kinds

    def close(self) -> None:
        self._connection.close()
        self._process.join()

    def _answer(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(f"an arm died with exit code {code}; see above why") from None


def fastest(made: Sequence[Callable[[], Arm]]) -> Apart:
    """One after the other, and only the fastest stays."""
    best = Apart(made[0])
    for make in made[1:]:
        other = Apart(make)
        best, slower = sorted((best, other), key=lambda arm: arm.warm_seconds)
        slower.close()
    return best


def _serve(make: Callable[[], Arm], connection: Connection) -> None:
    arm = make()
    for _ in range(COLD_STEPS):
        arm.step()
    warm_seconds = min(seconds_of(arm.step, CPU) for _ in range(2))
    connection.send((arm.parameters, arm.experts, warm_seconds))
    while True:
        try:
            asked = connection.recv()
        except EOFError:
            return
        connection.send(time_by_kind(arm.step) if asked == "profile" else arm.step())
