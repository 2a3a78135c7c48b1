"""Living coordinators and workers: each keeps one row up to date."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, update

from evenload.pipeline.store.columns import db_time
from evenload.pipeline.store.models import PresenceRow
from evenload.pipeline.store.upserts import insert_new

FORGOTTEN_AFTER_SECONDS = 24 * 3600.0  # a killed process cannot withdraw its row


def announce(connection: Connection, name: str, role: str, facts: Mapping[str, Any]) -> None:
    """Records that `name` is alive, with its facts. Repeat it for as long as that is true."""
    known = connection.execute(
        update(PresenceRow)
        .where(PresenceRow.name == name)
        .values(role=role, seen_at=db_time(), facts=dict(facts))
    )
    if known.rowcount == 0:
        connection.execute(
            delete(PresenceRow).where(PresenceRow.seen_at < db_time(-FORGOTTEN_AFTER_SECONDS))
        )
        # Every trial of a stack announces the same worker, so two may insert its row at once.
        row = {"name": name, "role": role, "facts": dict(facts)}
        insert_new(connection, PresenceRow, [row], started_at=db_time(), seen_at=db_time())


def withdraw(connection: Connection, name: str) -> None:
    """Removes `name` from the list of living processes, after an orderly end."""
    connection.execute(delete(PresenceRow).where(PresenceRow.name == name))
