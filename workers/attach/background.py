"""A thread that takes work off a training, and never makes it wait or fail."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

log = logging.getLogger("evenload.attach")

FLUSH_SECONDS = 1.0  # what comes within this time is handled at once
CLOSE_SECONDS = 30.0  # how long the end of a training waits for what is left

Item = TypeVar("Item")


class Background(Generic[Item]):
    """Hands items over in batches.

    Args:
        handle: called in the thread; what it raises is logged once and counted in `failures`
        most:   items that wait at the same time
    """

    def __init__(self, what: str, handle: Callable[[Sequence[Item]], None], most: int) -> None:
        self.failures = 0
        self._refused = self._failed = 0  # items; each is counted by one thread
        self._what, self._handle = what, handle
        self._queue: queue.Queue[Item | None] = queue.Queue(most)
        self._thread: threading.Thread | None = None

    def put(self, item: Item) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._what, daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._refused += 1
            self.complain("it takes too long")

    @property
    def lost(self) -> int:
        """Items that had no room, or whose batch failed."""
        return self._refused + self._failed

    def close(self) -> bool:
        """Handles what is left, and tells whether that is done. Later items start a new thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        try:
            self._queue.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return False
        thread.join(CLOSE_SECONDS)
        return not thread.is_alive()

    def complain(self, problem: object) -> None:
        self.failures += 1
        if self.failures == 1:  # one warning; a full disk would give one per step
            log.warning("%s has a problem, training goes on: %s", self._what, problem)

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch, is_open = self._batch()
            try:
                if batch:
                    self._handle(batch)
            except Exception as error:  # noqa: BLE001 - the training is not ours to stop
                self._failed += len(batch)
                self.complain(repr(error))

    def _batch(self) -> tuple[list[Item], bool]:
        """What waits, and whether more may come."""
        batch: list[Item] = []
        item = self._queue.get()
        until = time.monotonic() + FLUSH_SECONDS
        while item is not None:
            batch.append(item)
            try:
                item = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return batch, True
        return batch, False
