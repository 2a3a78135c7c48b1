"""Rows that another process may be inserting at this moment too."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sqlalchemy import Connection

from evenload.pipeline.store.models import Base


def insert_new(
    connection: Connection, table: type[Base], rows: list[dict[str, Any]], **shared: object
) -> None:
    """Inserts rows, where there is none of their key yet. `shared` values are those of all."""
    if rows:
        # Only the one in use: a command that reads should not wait for PostgreSQL's.
        dialect = import_module(f"sqlalchemy.dialects.{connection.dialect.name}")
        statement = dialect.insert(table).values(**shared).on_conflict_do_nothing()
        connection.execute(statement, rows)
