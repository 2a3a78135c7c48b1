"""An executor for a single trial, whose only worker is a thread of this process."""

import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any, Protocol

from evenload.pipeline.errors import PeerLost
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.sweep.plan import Death


class Worker(Protocol):
    """A train, eval or group actor."""

    def work(self, digest: str) -> TrialState | None: ...

    def request_stop(self) -> None: ...


class ThisProcess:
    """Works on one trial at a time. The thread ends with the process, whatever it does.

    Args:     make_worker: makes the worker of this kind and name
    """

    def __init__(self, make_worker: Callable[[WorkKind, str], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._name = self._digest = ""
        self._returned: Future[TrialState | None] = Future()

    def launch(self, kind: WorkKind, digest: str) -> bool:
        if self._worker is not None:
            return False
        self._name, self._digest = f"{kind}-{secrets.token_hex(3)}", digest
        self._worker, self._returned = self._make_worker(kind, self._name), Future()
        Thread(target=self._work, args=(self._worker,), daemon=True).start()
        return True

    def _work(self, worker: Worker) -> None:
        try:
            self._returned.set_result(worker.work(self._digest))
        except BaseException as error:  # noqa: BLE001  raised again by `gone`
            self._returned.set_exception(error)

    def free(self) -> Mapping[WorkKind, int]:
        return dict.fromkeys(WorkKind, int(self._worker is None))

    def busy(self) -> Mapping[str, str]:
        return {} if self._worker is None else {self._name: self._digest}

    def gone(self) -> Mapping[str, Death]:
        """Raises: whatever the worker raised, but PeerLost"""
        if self._worker is None or not self._returned.done():
            return {}
        self._worker = None
        try:
            self._returned.result()
        except PeerLost as lost:
            return {self._name: Death(f"worker lost: {lost}", lost.preempted)}
        return {}

    def wait(self, seconds: float) -> None:
        if self._worker is None:
            time.sleep(seconds)
        else:
            wait([self._returned], timeout=seconds)

    def kill(self, worker: str) -> None:
        """Only asks it to stop, because a thread cannot be ended. The store refuses its writes."""
        if self._worker is not None:
            self._worker.request_stop()

    def facts(self) -> Mapping[str, Any]:
        return {"nodes": [], "slots": {kind.value: 1 for kind in WorkKind}}

    def close(self) -> None:
        """Waits without a limit for the checkpoint; another signal ends that, and the process."""
        self.kill(self._name)
        if self._worker is not None:
            wait([self._returned])
