"""An executor whose workers are not processes, and functions that read the outcome of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping
from typing import Any

from evenload.pipeline.errors import LeaseLost
from evenload.pipeline.processes import process_id
from evenload.pipeline.states import AttemptState, Command, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.coordinator import Coordinator
from evenload.pipeline.sweep.plan import Death

TRAIN, EVAL = WorkKind.TRAIN, WorkKind.EVAL
LEASE = 60.0
VERDICT = {TRAIN: TrialState.TRAINED, EVAL: TrialState.COMPLETED}
Work = Generator[None, None, None]


class FakeExecutor:
    """Its workers are generators, and each `wait` advances all of them by one step.

    Args:     process: the process in which the workers appear to run; by default this one
              dies_at: digest -> how many workers die while they work on it
    """

    def __init__(
        self,
        store: SweepStore,
        *,
        process: str = "",
        name: str = "w",
        dies_at: dict[str, int] | None = None,
    ) -> None:
        self._store = store
        self._place = f"@{process or process_id()}"
        self._name = name
        self._dies_at = dies_at or {}
        self._work: dict[str, tuple[str, Work]] = {}
        self._gone: dict[str, Death] = {}
        self._stopping = False
        self.launched: list[tuple[WorkKind, str]] = []
        self.killed: list[str] = []
        self.is_closed = False

    def launch(self, kind: WorkKind, digest: str) -> bool:
        self.launched.append((kind, digest))
        worker = f"{self._name}{len(self.launched)}"
        self._work[worker] = (digest, self._working(worker, kind, digest))
        return True

    def free(self) -> Mapping[WorkKind, int]:
        return {TRAIN: 2 - len(self._work), EVAL: 2 - len(self._work)}

    def busy(self) -> Mapping[str, str]:
        return {worker: digest for worker, (digest, _) in self._work.items()}

    def gone(self) -> Mapping[str, Death]:
        gone, self._gone = self._gone, {}
        return gone

    def wait(self, seconds: float) -> None:
        for worker, (_, work) in list(self._work.items()):
            try:
                next(work)
            except (StopIteration, LeaseLost):
                self._work.pop(worker, None)

    def kill(self, worker: str) -> None:
        self.killed.append(worker)
        self._work.pop(worker, None)

    def facts(self) -> Mapping[str, Any]:
        return {"nodes": []}

    def close(self) -> None:
        self._stopping = True
        while self._work:
            self.wait(0)
        self.is_closed = True

    def _working(self, worker: str, kind: WorkKind, digest: str) -> Work:
        claim = self._store.claim(digest, kind, worker + self._place, LEASE)
        if claim is None:
            return
        yield
        if self._dies_at.get(digest, 0) > 0:
            self._dies_at[digest] -= 1
            self._gone[worker] = Death("killed")
            return
        yield
        command = self._store.heartbeat(claim, None, LEASE)
        if self._stopping or command is Command.STOP:
            self._store.release(claim)
        else:
            self._store.finish(claim, VERDICT[kind], {kind: 1.0})


def run(store: SweepStore, executor: FakeExecutor, sweep_id: str, **options: Any) -> bool:
    return Coordinator(store, executor, poll_seconds=0, **options).run(sweep_id)


def states(store: SweepStore, sweep_id: str) -> Counter[TrialState]:
    return Counter(trial.state for trial in store.trials(sweep_id))


def verdicts(store: SweepStore, digest: str) -> list[WorkKind]:
    return [a.kind for a in store.attempts(digest) if a.state is AttemptState.DONE]
