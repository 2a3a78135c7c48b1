"""Signals between the processes of a group, apart from training.

This module imports little, because every actor is a process.
"""

import asyncio


class GroupSignals:
    """Runs as a separate Ray actor. A caller that waits here does not block the others."""

    def __init__(self) -> None:
        self._stop, self._end = asyncio.Event(), asyncio.Event()
        self._preempted = False

    async def stop(self, preempted: bool) -> None:
        self._preempted = preempted
        self._stop.set()

    async def wait_for_stop(self) -> bool:
        """Returns after a stop request: True if the host is about to be removed."""
        await self._stop.wait()
        return self._preempted

    async def begin(self) -> None:
        self._end.clear()

    async def end(self) -> None:
        self._end.set()

    async def wait_for_end(self) -> None:
        """Returns after the first rank has finished with the trial."""
        await self._end.wait()
