"""Runs each arm in its own process, so that its settings, such as for memory, affect no other."""

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
COLD_STEPS = 2  # the first step compiles if the arm is compiled


class ArmProcess:
    """A process that builds an arm, takes some first steps and then waits for commands.

    Args:     build: builds the arm in the process; it must be picklable
    Raises:   RuntimeError: the process died, now or at a later call
    """

    def __init__(self, build: Callable[[], Arm]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(build, theirs), daemon=True)
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
            raise RuntimeError(f"an arm died with exit code {code}; see its output above") from None


def fastest(builders: Sequence[Callable[[], Arm]]) -> ArmProcess:
    """Starts the arms one after another and keeps only the fastest."""
    best = ArmProcess(builders[0])
    for build in builders[1:]:
        other = ArmProcess(build)
        best, slower = sorted((best, other), key=lambda arm: arm.warm_seconds)
        slower.close()
    return best


def _serve(build: Callable[[], Arm], connection: Connection) -> None:
    arm = build()
    for _ in range(COLD_STEPS):
        arm.step()
    warm_seconds = min(seconds_of(arm.step, CPU) for _ in range(2))
    connection.send((arm.parameters, arm.experts, warm_seconds))
    while True:
        try:
            command = connection.recv()
        except EOFError:
            return
        connection.send(time_by_kind(arm.step) if command == "profile" else arm.step())
