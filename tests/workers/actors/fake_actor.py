"""A train actor that calls a function of the test instead of training."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import Progress, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.actors.actor import Assignment, Verdict
from evenload.workers.actors.train_actor import TrainActor

PROGRESS = Progress(step=1, steps=6, tokens=64, tokens_per_second=1.0, loss=2.0, max_vio=0.5)


class RecordingSink:
    """Remembers the state of the trial in the store when it was closed."""

    errors = 0

    def __init__(self, store: SweepStore, run: RunIdentity) -> None:
        self._store = store
        self.run = run
        self.closed: list[TrialState] = []

    def close(self) -> None:
        self.closed.append(self._store.trial(self.run.digest).state)


class FakeTrainActor(TrainActor):
    """Calls a function of the test instead of training."""

    def __init__(
        self,
        settings: Settings,
        store: SweepStore,
        behave: Callable[..., Any],
        handles_sigterm: bool = False,
    ) -> None:
        self.sinks: list[RecordingSink] = []
        self.behave = behave

        def sink_factory(_: Settings, run: RunIdentity) -> Any:
            self.sinks.append(RecordingSink(store, run))
            return self.sinks[-1]

        super().__init__("train-1", settings, sink_factory, handles_sigterm=handles_sigterm)

    def compute(self, assignment: Assignment) -> Verdict:
        return self.behave(assignment)


def wait_for_command(assignment: Assignment) -> str:
    while (command := assignment.heartbeat.report(PROGRESS)) == "continue":
        time.sleep(0.01)
    return command
