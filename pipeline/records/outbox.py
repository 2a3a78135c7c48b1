"""A bounded queue of deliveries to a server that may be away. It keeps their order and retries."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

Delivery = Callable[[], object]  # idempotent, because it runs again if the answer was lost

MAX_WAIT_SECONDS = 60.0
WAIT_PER_LOST_SECOND = 10.0  # so that a hanging server costs at most a tenth of training's time


class Outbox:
    """A queue of deliveries that raises no error during an outage.

    `errors` counts failed attempts and dropped deliveries. A delivery is dropped if the server
    refuses it, or if it is the oldest and more than `max_pending` wait.

    Args:     failures: the errors that a failed delivery raises
              is_outage: whether trying again may help after such an error
    """

    def __init__(
        self,
        failures: tuple[type[Exception], ...],
        is_outage: Callable[[Exception], bool],
        max_pending: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.errors = 0
        self._failures = failures
        self._is_outage = is_outage
        self._max_pending = max_pending
        self._clock = clock
        self._sleep = sleep
        self._pending: deque[Delivery] = deque()
        self._wait_seconds = 0.0
        self._next_try = float("-inf")

    def __len__(self) -> int:
        return len(self._pending)

    def put(self, delivery: Delivery) -> None:
        if len(self._pending) == self._max_pending:
            self._pending.popleft()
            self.errors += 1
        self._pending.append(delivery)

    def flush(self) -> None:
        """Delivers all that waits, unless the last failure is too recent."""
        while self._pending and self._clock() >= self._next_try:
            self._deliver_first()

    def drain(self, patience_seconds: float) -> None:
        """Delivers all that waits; waits up to `patience_seconds` for the server, then drops it."""
        deadline = self._clock() + patience_seconds
        self._next_try = self._clock()
        while self._pending and self._clock() < deadline:
            self._sleep(max(0.0, min(self._next_try, deadline) - self._clock()))
            self.flush()
        self.errors += len(self._pending)
        self._pending.clear()

    def _deliver_first(self) -> None:
        started = self._clock()
        try:
            self._pending[0]()
        except self._failures as error:
            self.errors += 1
            if self._is_outage(error):
                self._back_off(started)
                return
        self._pending.popleft()
        self._wait_seconds = 0.0

    def _back_off(self, started: float) -> None:
        now = self._clock()
        self._wait_seconds = min(MAX_WAIT_SECONDS, max(1.0, 2 * self._wait_seconds))
        self._next_try = now + max(self._wait_seconds, WAIT_PER_LOST_SECOND * (now - started))
