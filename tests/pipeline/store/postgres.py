"""One PostgreSQL database for many tests: emptied before each."""

from __future__ import annotations

from typing import Any

import psycopg

from evenload.pipeline.store.schema import REVISIONS
from evenload.pipeline.store.sweep_store import SweepStore

NOTHING = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"


def empty_tables(url: str) -> None:
    """Leaves the current schema without rows. It is built only if there is another one or none."""
    with connected(url) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = {name for (name,) in found} - {"alembic_version"}
        version = connection.execute("SELECT version_num FROM alembic_version") if tables else None
        if version is not None and version.fetchall() == [(REVISIONS[-1],)]:
            connection.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY")
            return
        connection.execute(NOTHING)
    store = SweepStore(url)
    store.migrate()
    store.close()


def connected(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
