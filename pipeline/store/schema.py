"""The version of the database's schema: checked before use, upgraded on request."""

from __future__ import annotations

from contextlib import closing
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from pipeline.errors import SpecError
from pipeline.settings import without_password
from pipeline.store.engine import WRITES

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 7_305_811  # any number, the same in every evenload


def check(connection: Connection) -> None:
    """Raises: SpecError: the schema is missing, older or newer, with the remedy"""
    found, newest = _revision(connection), _newest_revision()
    if found == newest:
        return
    where = without_password(connection.engine.url.render_as_string(hide_password=True))
    if found is None:
        raise SpecError(f"{where} holds no sweeps yet; `evenload sweep list` sets it up")
    if not _is_known(found):
        raise SpecError(f"{where} was written by a newer evenload ({found}); upgrade evenload")
    raise SpecError(
        f"{where} was written by an older evenload ({found}, not {newest}); "
        "`evenload sweep list` upgrades it"
    )


def migrate(engine: Engine, revision: str = "head") -> None:
    """Creates or upgrades the schema. Safe to repeat, and safe in several processes at once.

    Raises:   SpecError: the schema is newer than this evenload
    """
    if engine.dialect.name == "sqlite":
        _use_write_ahead_log(engine)
    with engine.execution_options(**{WRITES: True}).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        found = _revision(connection)
        if found is not None and not _is_known(found):
            check(connection)
        if found != _newest_revision():
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)


def _use_write_ahead_log(engine: Engine) -> None:
    """Readers then never wait for a writer. The file remembers it."""
    with closing(engine.raw_connection()) as connection:  # it cannot be set in a transaction
        connection.cursor().execute("PRAGMA journal_mode = WAL")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@cache
def _newest_revision() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _is_known(revision: str) -> bool:
    scripts = ScriptDirectory.from_config(_config())
    return any(script.revision == revision for script in scripts.walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
