"""Patience with a store that is away: what an attempt found out is worth waiting for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from evenload.pipeline.errors import StoreUnavailable

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 10.0
T = TypeVar("T")


def through_outages(call: Callable[[], T]) -> T:
    """What `call` returns, as soon as the store answers; everything else that it raises, at once.

    Without an end: no one can take a trial while the store is away, and who gives up on the worker
    ends its process.
    """
    wait_seconds = FIRST_WAIT_SECONDS
    while True:
        try:
            return call()
        except StoreUnavailable as error:
            logger.warning("%s; trying again in %.1f s", error, wait_seconds)
            time.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
