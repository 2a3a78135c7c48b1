"""Tells which leases have run out, without trusting any clock but this process's own."""

from collections.abc import Callable, Iterable

from evenload.pipeline.states import Lease

MOST_PER_LOOK = 0.25  # of a lease: longer between two looks, and this process was not there


class LeaseWatch:
    """Adds up how long it has seen each lease without a renewal.

    Only the time in which it looks on counts. So no worker loses its trial to a clock that jumps,
    or because a laptop slept, the database was away, or this process was stopped or just started.

    Args:     clock: seconds that never go back, such as time.monotonic
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._looked_at = clock()
        self._silent: dict[Lease, float] = {}

    def overdue(self, leases: Iterable[Lease]) -> tuple[Lease, ...]:
        """Those of all current leases whose time is over."""
        now = self._clock()
        passed, self._looked_at = now - self._looked_at, now
        self._silent = {
            lease: self._silent[lease] + min(passed, MOST_PER_LOOK * lease.seconds)
            if lease in self._silent
            else 0.0
            for lease in leases
        }
        return tuple(lease for lease, silent in self._silent.items() if silent > lease.seconds)
