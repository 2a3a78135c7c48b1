"""Prepares submitted sweeps for `evenload serve`."""

import logging

from evenload.pipeline.errors import SpecError, StoreUnavailable, reason_of
from evenload.pipeline.states import SweepRecord, SweepState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.cli.listing import Listing

logger = logging.getLogger(__name__)


def cap_priorities(store: SweepStore, most: int) -> None:
    """Lowers priorities above `most`, so that nobody's sweeps rule for ever."""
    try:
        for sweep in store.sweeps():
            if sweep.priority > most and sweep.state is SweepState.ACTIVE:
                logger.warning(
                    "sweep %s: priority %d lowered to %d", sweep.sweep_id, sweep.priority, most
                )
                store.set_priority(sweep.sweep_id, most)
    except SpecError as error:  # the store is away, or a sweep is gone
        logger.warning("%s", error)


class Admission:
    """Stores the trials of submitted sweeps.

    If the store does not answer, the next round tries again. Anything else concerns one sweep,
    which is paused with the reason as its note; `evenload sweep resume` tries it again.
    """

    def __init__(self, store: SweepStore, listing: Listing) -> None:
        self._store = store
        self._listing = listing

    def process_sweeps(self) -> None:
        try:
            for sweep in self._store.sweeps():
                if sweep.state is SweepState.ACTIVE and not sweep.is_expanded:
                    self._process(sweep)
        except StoreUnavailable as error:
            logger.warning("%s; trying again", error)
        except SpecError as error:  # the store cannot be read
            logger.error("%s", error)

    def _process(self, sweep: SweepRecord) -> None:
        """Raises: StoreUnavailable"""
        try:
            found = self._listing.first(sweep.sweep_id, sweep.spec)
            # Reading the corpus takes minutes, and the user may have ended the sweep meanwhile.
            if found is not None and self._store.admit(sweep.sweep_id, *found):
                logger.info("sweep %s: %d trials", sweep.sweep_id, len(found[0]))
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  it must not delay the other sweeps
            self._pause(sweep.sweep_id, reason_of(error))

    def _pause(self, sweep_id: str, reason: str) -> None:
        logger.error("sweep %s cannot run: %s", sweep_id, reason)
        try:
            self._store.pause(sweep_id, note=reason)
        except StoreUnavailable:
            raise
        except SpecError as error:  # the user ended or deleted it meanwhile
            logger.warning("%s", error)
