"""Settings of every test process."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the collector of garbage need not look at it again."""
    gc.collect()
    gc.freeze()
