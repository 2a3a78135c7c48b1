from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from evenload.pipeline.errors import SpecError
from evenload.pipeline.states import TrialState
from evenload.pipeline.store import schema
from evenload.pipeline.store.engine import open_engine
from evenload.pipeline.store.models import Base
from evenload.pipeline.store.sweep_store import SweepStore

OpenStore = Callable[[str], SweepStore]

FIRST_ROWS = """
INSERT INTO sweep (sweep_id, name, spec, state, is_expanded, max_retries, created_at)
  VALUES ('s-1', 's', '{}', 'active', true, 2, '2026-01-02 03:04:05.678+00');
INSERT INTO trial (digest, label, spec, state, attempt, failures, result, created_at)
  VALUES ('d', 'sign 0.01', '{"a": 1}', 'queued', 0, 0, '{"x": NaN}', '2026-01-02 03:04:05+00');
INSERT INTO sweep_trial (sweep_id, digest, position) VALUES ('s-1', 'd', 0)
"""

FIRST_DEED = """
INSERT INTO deed (number, at, who, verb, sweep_id)
  VALUES (1, '2026-01-02 03:04:05+00', 'ann', 'run', 's-1'),
         (2, '2026-01-03 00:00:00+00', 'bob', 'run', 's-1')
"""


def execute(url: str, statements: str) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        for statement in statements.split(";"):
            connection.execute(text(statement.replace("+00", "") if "sqlite" in url else statement))
    engine.dispose()


def test_a_database_without_schema_is_refused_with_the_remedy(
    empty_url: str, open_store: OpenStore
) -> None:
    with pytest.raises(SpecError, match="holds no sweeps yet; `evenload sweep list` sets it up"):
        open_store(empty_url).sweeps()


def test_a_newer_schema_is_refused_by_readers_and_by_migrate(
    url: str, open_store: OpenStore
) -> None:
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    for use in (open_store(url).sweeps, open_store(url).migrate):
        with pytest.raises(SpecError, match=r"newer evenload \(9999\); upgrade evenload"):
            use()


def test_an_older_schema_is_refused_with_the_remedy(
    url: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = schema.REVISIONS[-1]
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9999"))
    with pytest.raises(
        SpecError, match=rf"older evenload \({newest}, not 9999\); `evenload sweep list`"
    ):
        open_store(url).sweeps()


def test_the_first_schema_upgrades_and_keeps_its_rows(
    empty_url: str, open_store: OpenStore
) -> None:
    engine = open_engine(empty_url)
    schema.migrate(engine, "0001")
    engine.dispose()
    execute(empty_url, FIRST_ROWS)
    engine = open_engine(empty_url)
    schema.migrate(engine, "0004")
    engine.dispose()
    execute(empty_url, FIRST_DEED)
    store = open_store(empty_url)
    store.migrate()
    (trial,) = store.trials("s-1")
    assert (trial.digest, trial.state, trial.spec) == ("d", TrialState.QUEUED, {"a": 1})
    assert store.sweep("s-1").submitter == "ann"
    assert store.sweep("s-1").created_at.isoformat() == "2026-01-02T03:04:05.678000+00:00"


def test_revisions_lists_the_migration_files() -> None:
    scripts = ScriptDirectory(str(schema.MIGRATIONS)).walk_revisions()
    assert [script.revision for script in scripts] == list(reversed(schema.REVISIONS))


def test_migrations_build_exactly_the_tables_of_the_models(url: str) -> None:
    engine = open_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_migrating_is_idempotent_and_may_happen_at_once(
    empty_url: str, open_store: OpenStore
) -> None:
    stores = [open_store(empty_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(SweepStore.migrate, stores))
    for store in stores:
        assert store.sweeps() == []


def test_sqlite_writes_ahead_so_that_readers_never_wait(
    tmp_path: Path, open_store: OpenStore
) -> None:
    store, reader = (open_store(f"sqlite:///{tmp_path / 'store.db'}") for _ in range(2))
    store.migrate()
    with store._transaction(writes=True):
        assert reader.sweeps() == []
