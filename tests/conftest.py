"""Settings of every test process."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the collector of garbage need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in SQLite without rows. Tests copy it: migrations take longer than most tests."""
    from evenload.pipeline.store.sweep_store import SweepStore

    path = tmp_path_factory.mktemp("empty") / "evenload.db"
    store = SweepStore(f"sqlite:///{path}")
    store.migrate()
    store.close()
    return path
