"""Notes who asked what of which sweep, in the transaction that does it, and alarms."""

import getpass
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import Connection, insert, select

from evenload.pipeline.states import DeedRecord
from evenload.pipeline.store.columns import db_time
from evenload.pipeline.store.models import Deed

ALARMS = "alarms"  # who, in the note of an alarm that was sent
TAKEN_UP = ("resume", "retry", "extend")  # verbs after which a sweep may fail again
# Who asks: a server sets it for each request; by default the user of this process.
WHO: ContextVar[str | None] = ContextVar("who", default=None)


@contextmanager
def noted(
    connection: Connection, verb: str, sweep_id: str, digest: str | None = None
) -> Iterator[None]:
    """Notes the deed after it, so that notes have the order of the deeds."""
    yield
    row = {"who": who(), "verb": verb, "sweep_id": sweep_id, "digest": digest}
    connection.execute(insert(Deed).values(at=db_time(), **row))


def told(connection: Connection, sweep_id: str) -> set[tuple[str, str | None]]:
    """Kind and trial of the alarms that were sent about a sweep.

    A sweep that was deleted and made again begins anew. One that was taken up again may fail again.
    """
    rows = select(Deed).where(Deed.sweep_id == sweep_id).order_by(Deed.number)
    found: set[tuple[str, str | None]] = set()
    for row in connection.execute(rows):
        if row.who == ALARMS:
            found.add((row.verb, row.digest))
        elif row.verb == "delete":
            found.clear()
        elif row.verb in TAKEN_UP:
            found.discard(("sweep-failed", None))
    return found


def note_alarm(connection: Connection, kind: str, sweep_id: str, digest: str | None) -> None:
    """Notes that an alarm was sent."""
    row = {"who": ALARMS, "verb": kind, "sweep_id": sweep_id, "digest": digest}
    connection.execute(insert(Deed).values(at=db_time(), **row))


def read(connection: Connection, limit: int = 100) -> list[DeedRecord]:
    """Who asked what of which sweep, newest first."""
    rows = connection.execute(select(Deed).order_by(Deed.number.desc()).limit(limit))
    return [DeedRecord(row.at, row.who, row.verb, row.sweep_id, row.digest) for row in rows]


def who() -> str:
    """Who asks: the login of the viewer or agent, or the user of this process and its host."""
    if name := WHO.get():
        return name
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container may have no name for its user
        return f"somebody@{socket.gethostname()}"
