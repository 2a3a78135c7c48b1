"""The version of the database's schema: checked before use, upgraded on request."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.errors import SpecError
from evenload.pipeline.store.engine import BUSY_MILLISECONDS, WRITES

MIGRATIONS = Path(__file__).parent / "migrations"
# Oldest first. Repeated from the migration files so that readers need not import alembic.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
MIGRATION_LOCK = 7_305_811  # any number, the same in every evenload


def check(connection: Connection) -> None:
    """Raises: SpecError: the schema is missing, older or newer; the message names the remedy"""
    found = _revision(connection)
    if found == REVISIONS[-1]:
        return
    where = shown_address(connection.engine.url.render_as_string(hide_password=True))
    if found is None:
        raise SpecError(f"{where} holds no sweeps yet; `evenload sweep list` sets it up")
    if found not in REVISIONS:
        raise SpecError(f"{where} was written by a newer evenload ({found}); upgrade evenload")
    raise SpecError(
        f"{where} was written by an older evenload ({found}, not {REVISIONS[-1]}); "
        "`evenload sweep list` upgrades it"
    )


def migrate(engine: Engine, revision: str = REVISIONS[-1]) -> None:
    """Creates or upgrades the schema. Idempotent, and safe in several processes at once.

    Raises:   SpecError: the schema is newer than this evenload
    """
    if engine.dialect.name == "sqlite":
        _use_write_ahead_log(engine)
    with engine.execution_options(**{WRITES: True}).begin() as connection:
        if engine.dialect.name == "postgresql":
            lock = text("SELECT pg_advisory_xact_lock(:lock)")
            connection.execute(text("SET LOCAL statement_timeout = 0"))  # it may rewrite tables
            connection.execute(lock, {"lock": MIGRATION_LOCK})
        found = _revision(connection)
        if found not in (None, *REVISIONS):
            check(connection)
        if found != REVISIONS[-1]:
            _upgrade(connection, revision)


def _upgrade(connection: Connection, revision: str) -> None:
    from alembic import command  # slow to import, and rarely needed
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _use_write_ahead_log(engine: Engine) -> None:
    """Switches the file to a write-ahead log, so that readers never wait for a writer."""
    deadline = time.monotonic() + BUSY_MILLISECONDS / 1000
    while True:
        with closing(engine.raw_connection()) as connection:  # impossible within a transaction
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                # SQLite does not wait for this lock, whatever its busy timeout.
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.05)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
