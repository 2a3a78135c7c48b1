"""Runs calls in processes of their own, with limits of time and memory.

The data and the model of a sweep decide how long it takes to list its trials, how much memory that
needs, and whether a library aborts the process. A service must outlive all of it.
"""

import logging
import resource
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from pydantic import ValidationError

from evenload.pipeline.errors import SpecError, StoreUnavailable, reason_of
from evenload.pipeline.processes import end_with_parent
from evenload.pipeline.settings import Settings
from evenload.workers.host_memory import host_bytes

logger = logging.getLogger(__name__)

AT_ONCE = 2  # calls; each process holds about 300 MB of libraries
FORGOTTEN_SECONDS = 600.0  # nobody waits for a call that was not asked about for so long
GIB = 2**30


class LimitedCalls:
    """Calls that run beside the service. A process that passed its limits is replaced."""

    def __init__(self, settings: Settings) -> None:
        self._seconds = settings.prepare_seconds
        gib = settings.prepare_gib or host_bytes() / 2 / GIB
        self._memory_bytes = int(gib * GIB)
        self._running: dict[str, _Child] = {}
        self._idle: list[_Child] = []

    def ask(self, key: str, call: Callable[..., Any], *arguments: Any) -> Any | None:
        """The result of the call that was begun under this key; None while it runs or waits.

        Raises:   SpecError: the call raised it, failed otherwise, or passed a limit
                  StoreUnavailable: the call raised it
        """
        self._drop_forgotten()
        child = self._running.get(key)
        if child is None:
            if len(self._running) < AT_ONCE:
                child = self._idle.pop() if self._idle else _Child(self._memory_bytes)
                child.begin(call, arguments)
                self._running[key] = child
            return None
        child.asked_at = time.monotonic()
        if not child.has_ended(self._seconds):
            return None
        del self._running[key]
        try:
            return child.result(self._seconds)
        finally:
            if child.is_alive():
                self._idle.append(child)

    def _drop_forgotten(self) -> None:
        for key, child in list(self._running.items()):
            if time.monotonic() - child.asked_at > FORGOTTEN_SECONDS:
                self._running.pop(key).kill()


class _Child:
    """A process that answers one call after another."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._parent_end, child_end = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(
            target=_answer, args=(child_end, memory_bytes), daemon=True
        )
        self._process.start()
        child_end.close()  # so that the end of the process ends the connection

    def begin(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._began = self.asked_at = time.monotonic()
        self._parent_end.send((call, arguments))

    def has_ended(self, seconds: float) -> bool:
        return self._parent_end.poll() or time.monotonic() - self._began > seconds

    def result(self, seconds: float) -> Any:
        """The result of the call that has ended.  Raises: as `LimitedCalls.ask`"""
        remedy = "use less data, or a smaller model or sweep"
        if not self._parent_end.poll():
            self.kill()
            raise SpecError(
                f"not prepared within {seconds:,g} s; {remedy}, or raise EVENLOAD_PREPARE_SECONDS"
            )
        try:
            error, answer, where = self._parent_end.recv()
        except EOFError:
            self._process.join()
            raise SpecError(
                f"the process that prepared it ended with exit code {self._process.exitcode}, "
                f"perhaps for want of memory; {remedy}"
            ) from None
        if where:
            logger.error("%s", where)
        if error is MemoryError:
            raise SpecError(
                f"more than {self._memory_bytes / GIB:,.1f} GiB of memory are needed to prepare "
                f"it; {remedy}, or raise EVENLOAD_PREPARE_GIB"
            )
        if error is not None:
            raise error(answer)
        return answer

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _answer(connection: Connection, memory_bytes: int) -> None:
    """Answers calls until the service ends."""
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the service ends this one
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    while True:
        try:
            call, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send((None, call(*arguments), ""))
        except MemoryError:
            connection.send((MemoryError, "", ""))
        except StoreUnavailable as error:
            connection.send((StoreUnavailable, str(error), ""))
        except (SpecError, ValidationError) as error:
            connection.send((SpecError, reason_of(error), ""))
        except Exception as error:  # noqa: BLE001  whatever it is, it concerns this call alone
            connection.send((SpecError, reason_of(error), traceback.format_exc()))
