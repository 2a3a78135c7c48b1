"""Applies the policies of sweeps: adds trials that searches propose, and stops hopeless ones."""

import logging
import time
from collections.abc import Callable, Sequence

from evenload.pipeline.errors import StoreUnavailable, reason_of
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Order, SweepState, TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.answer import readable_spec
from evenload.pipeline.sweep.next_trials import grows, next_trials, stops_trials
from evenload.pipeline.sweep.stopping import stops

logger = logging.getLogger(__name__)

Identified = list[tuple[str, TrialSpec]]
Identify = Callable[[str, Sequence[TrialSpec]], Identified | None]
MIN_SECONDS = 1.0  # between two reads of a sweep's trials
STALE_SECONDS = 2.0  # an active sweep is asked for in every round
MAX_SHARE = 0.1  # largest share of the time that reading and deciding may take


class SweepPolicies:
    """Adds trials to sweeps and stops hopeless ones, as pure functions decide.

    It only caches the times of the next read and the specs of sweeps while they are active: a
    finished sweep can be extended.

    Args:     identify: resolves trials of a sweep for the place where they will run, and returns
                        them with their digests; None: ask again later
    """

    def __init__(self, store: SweepStore, identify: Identify) -> None:
        self._store = store
        self._identify = identify
        self._specs: dict[str, SweepSpec | None] = {}
        self._next_look: dict[str, float] = {}
        self._asked: dict[str, float] = {}

    def apply(self, sweep_id: str, room: int) -> bool:
        """Orders trials to stop and adds trials; returns whether more may be added later.

        If the new trials cannot run here, the sweep is paused with the reason as its note.

        Args:     room: how many more trials of the sweep could start now
        """
        spec = self._spec(sweep_id)
        if spec is None:
            return False
        began = time.monotonic()
        if began < self._next_look.get(sweep_id, began):
            return True
        try:
            return self._look(sweep_id, spec, room)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, it concerns this sweep alone
            self._pause(sweep_id, error)
            return True
        finally:
            took = time.monotonic() - began
            self._next_look[sweep_id] = began + max(MIN_SECONDS, took / MAX_SHARE)

    def _look(self, sweep_id: str, spec: SweepSpec, room: int) -> bool:
        rows = self._store.trials(sweep_id)
        if stops_trials(spec):
            for digest, reason in stops(spec, self._store.curves(sweep_id), rows):
                self._store.order(digest, Order.STOP, reason, for_sweep=sweep_id)
        added = self._grow(sweep_id, spec, rows, room)
        if added or not all(row.state.is_final for row in rows):
            return True
        # Without room the search was not asked for more trials, so ask for one.
        return room == 0 and bool(next_trials(spec, rows, room=1).trials)

    def _grow(self, sweep_id: str, spec: SweepSpec, rows: Sequence[TrialRecord], room: int) -> int:
        """Adds the trials that are due; returns how many are new or still to be identified."""
        growth = next_trials(spec, rows, room)
        if not growth.trials:
            return 0
        identified = self._identify(sweep_id, growth.trials)
        if identified is None:
            return 1
        added = self._store.add_trials(sweep_id, identified, growth.stage)
        logger.info("sweep %s: added %d trials to %s", sweep_id, added, growth.stage)
        return added

    def _pause(self, sweep_id: str, error: Exception) -> None:
        if self._store.sweep(sweep_id).state is SweepState.ACTIVE:
            reason, where = reason_of(error), None if isinstance(error, ValueError) else error
            message = "sweep %s cannot continue and is paused: %s"
            logger.error(message, sweep_id, reason, exc_info=where)
            self._store.pause(sweep_id, note=reason)

    def _spec(self, sweep_id: str) -> SweepSpec | None:
        """The sweep's spec; None if it has no policies. Read again after a pause."""
        now = time.monotonic()
        is_stale = now - self._asked.get(sweep_id, now) > STALE_SECONDS
        self._asked[sweep_id] = now
        if is_stale or sweep_id not in self._specs:
            spec = readable_spec(self._store, sweep_id)  # None: its policies are unknown
            has_policies = spec is not None and (grows(spec) or stops_trials(spec))
            self._specs[sweep_id] = spec if has_policies else None
        return self._specs[sweep_id]
