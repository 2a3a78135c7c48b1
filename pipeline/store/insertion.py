"""Rows that another process may be inserting at this moment too."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.store.models import Base


def insert_new(
    connection: Connection, table: type[Base], rows: list[dict[str, Any]], **shared: object
) -> None:
    """Inserts rows, where there is none of their key yet. `shared` values are those of all."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    if rows:
        statement = dialect.insert(table).values(**shared).on_conflict_do_nothing()
        connection.execute(statement, rows)
