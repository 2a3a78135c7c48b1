"""Waits for a database or an object store that does not answer, so that no result is lost."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 10.0
LOOK_SECONDS = 0.2
T = TypeVar("T")


def retry_while_away(
    call: Callable[[], T], away: type[Exception], stops: Callable[[], bool] = lambda: False
) -> T:
    """Repeats `call` while it raises `away`. Passes on its result and any other error.

    There is no time limit: a user can always end this process.

    Args:     stops: whether to wait no longer; then `away` is raised
    """
    wait_seconds = FIRST_WAIT_SECONDS
    while True:
        try:
            return call()
        except away as error:
            logger.warning("%s; trying again in %.1f s", error, wait_seconds)
            until = time.monotonic() + wait_seconds
            while (left := until - time.monotonic()) > 0:
                if stops():
                    raise
                time.sleep(min(left, LOOK_SECONDS))
            wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
