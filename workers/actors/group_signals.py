"""What processes of a group tell each other beside the training.

Imports little: every actor is a process.
"""

from __future__ import annotations

import asyncio


class GroupSignals:
    """To be hosted as an actor of its own; who waits here blocks nobody."""

    def __init__(self) -> None:
        self._stop, self._end = asyncio.Event(), asyncio.Event()
        self._preempted = False

    async def stop(self, preempted: bool) -> None:
        self._preempted = preempted
        self._stop.set()

    async def stopped(self) -> bool:
        """Returns once the group is to stop: whether because its host is being taken away."""
        await self._stop.wait()
        return self._preempted

    async def begin(self) -> None:
        self._end.clear()

    async def end(self) -> None:
        self._end.set()

    async def ended(self) -> None:
        """Returns once the first rank is done with the trial."""
        await self._end.wait()
