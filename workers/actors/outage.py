"""Waits for a store that does not answer, so that the result of an attempt is not lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from evenload.pipeline.errors import StoreUnavailable

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 10.0
T = TypeVar("T")


def retry_until_store_answers(call: Callable[[], T]) -> T:
    """Repeats `call` while it raises StoreUnavailable. Passes on its result and any other error.

    There is no time limit: no other worker can take a trial while the store does not answer, and a
    user can always end this process.
    """
    wait_seconds = FIRST_WAIT_SECONDS
    while True:
        try:
            return call()
        except StoreUnavailable as error:
            logger.warning("%s; trying again in %.1f s", error, wait_seconds)
            time.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
