"""Inserts rows that another process may be inserting at the same moment."""

from importlib import import_module
from typing import Any

from sqlalchemy import Connection

from evenload.pipeline.store.models import Base


def insert_new(
    connection: Connection, table: type[Base], rows: list[dict[str, Any]], **shared: object
) -> None:
    """Inserts the rows whose key is not in the table yet; every row gets the `shared` values."""
    if rows:
        # Importing only the dialect in use saves time on every start.
        dialect = import_module(f"sqlalchemy.dialects.{connection.dialect.name}")
        statement = dialect.insert(table).values(**shared).on_conflict_do_nothing()
        connection.execute(statement, rows)
