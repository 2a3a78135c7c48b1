"""Runs every test of the store on SQLite and on a PostgreSQL server started for the session."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.store.sweep_store import SweepStore
from tests.faults.services import Postgres
from tests.pipeline.store.postgres import NOTHING, connected, empty_tables

BASE: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign", "step_size": 0.01},
}
Listed = list[tuple[str, TrialSpec]]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server that is started for the session."""
    folder = Path(tempfile.mkdtemp(prefix="evenload-pg-"))
    folder.chmod(0o755)
    (folder / "pg").mkdir()
    try:
        database = Postgres(folder / "pg")
        database.service.start()
        yield database.url
        database.service.end()
    finally:
        shutil.rmtree(folder)


DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(params=DATABASES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    url: str = request.getfixturevalue("postgres_url")
    with connected(url) as connection:
        connection.execute(NOTHING)
    return url


@pytest.fixture
def open_store() -> Iterator[Callable[[str], SweepStore]]:
    """Opens stores and closes them after the test."""
    with ExitStack() as opened:

        def open_one(url: str) -> SweepStore:
            store = SweepStore(url)
            opened.callback(store.close)
            return store

        yield open_one


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path, empty_store: Path) -> str:
    """A database with the current schema and no rows."""
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'store.db')}"
    url: str = request.getfixturevalue("postgres_url")
    empty_tables(url)
    return url


@pytest.fixture
def store(url: str, open_store: Callable[[str], SweepStore]) -> SweepStore:
    return open_store(url)


@pytest.fixture
def make_sweep() -> Callable[..., tuple[SweepSpec, Listed]]:
    """Makes sweeps of `count` trials with the digests `<prefix>000`, `<prefix>001` and so on."""

    def make(
        count: int = 2, name: str = "demo", prefix: str = "t", max_retries: int = 2
    ) -> tuple[SweepSpec, Listed]:
        axes: dict[str, list[Any]] = {"train.seed": list(range(count))}
        spec = SweepSpec(name=name, base=BASE, axes=axes, max_retries=max_retries)
        return spec, [(f"{prefix}{at:03}", trial) for at, trial in enumerate(spec.expand())]

    return make


@pytest.fixture
def sweep_id(store: SweepStore, make_sweep: Callable[..., tuple[SweepSpec, Listed]]) -> str:
    return store.add_sweep(*make_sweep(2))
