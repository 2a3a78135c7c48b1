"""Looks after sweeps that grow or stop trials: reads rows, decides, writes what was decided."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from evenload.pipeline.errors import StoreUnavailable
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Order, SweepState, TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.next_trials import grows, next_trials, stops_trials
from evenload.pipeline.sweep.stopping import stops

logger = logging.getLogger(__name__)

Identify = Callable[[Sequence[TrialSpec]], list[tuple[str, TrialSpec]]]
MIN_SECONDS = 1.0  # between two looks at a sweep
MAX_SHARE = 0.1  # of the time that looking may take


class SweepPolicies:
    """Gives sweeps further trials and ends hopeless ones; the decisions are pure functions.

    What it remembers can be lost: specs, which never change under their id, and when to look again.

    Args:     identify: resolves trials for where they will run and gives each its digest
    """

    def __init__(self, store: SweepStore, identify: Identify) -> None:
        self._store = store
        self._identify = identify
        self._specs: dict[str, SweepSpec | None] = {}
        self._next_look: dict[str, float] = {}

    def apply(self, sweep_id: str, room: int) -> bool:
        """Orders stops and adds trials; returns whether the sweep may still grow.

        A sweep whose further trials cannot run here is paused, with the reason as its note.

        Args:     room: how many more trials of it could start now
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
        except ValueError as error:  # a SpecError, or a drawn point that is no valid trial
            self._pause(sweep_id, str(error))
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
        # Without room it may have been asked too early.
        return room == 0 and bool(next_trials(spec, rows, room=1).trials)

    def _grow(self, sweep_id: str, spec: SweepSpec, rows: Sequence[TrialRecord], room: int) -> int:
        """How many trials are new."""
        growth = next_trials(spec, rows, room)
        if not growth.trials:
            return 0
        added = self._store.add_trials(sweep_id, self._identify(growth.trials), growth.stage)
        logger.info("sweep %s: %d more trials to %s", sweep_id, added, growth.stage)
        return added

    def _pause(self, sweep_id: str, reason: str) -> None:
        if self._store.sweep(sweep_id).state is SweepState.ACTIVE:
            logger.error("sweep %s cannot go on and is paused: %s", sweep_id, reason)
            self._store.pause(sweep_id, note=reason)

    def _spec(self, sweep_id: str) -> SweepSpec | None:
        """None: nothing to look after."""
        if sweep_id not in self._specs:
            self._specs[sweep_id] = _tended(self._store.sweep(sweep_id).spec)
        return self._specs[sweep_id]


def _tended(stored: dict[str, Any]) -> SweepSpec | None:
    try:
        spec = SweepSpec.trusted(stored)
    except ValidationError:  # of a version whose specs were others; it neither grows nor stops
        return None
    return spec if grows(spec) or stops_trials(spec) else None
