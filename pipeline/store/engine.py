"""Opens SQLite or PostgreSQL such that both behave alike under concurrent writers."""

from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.errors import SpecError

BUSY_MILLISECONDS = 30_000
# So that a server that vanished from the network is noticed within a lease and not after minutes.
NOTICE_SILENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds without an acknowledgement
    "options": f"-c statement_timeout={BUSY_MILLISECONDS}",
}
WRITES = "writes"  # execution option of a connection that will write


def open_engine(url: str, read_only: bool = False) -> Engine:
    """An engine that has not connected yet. With `read_only` its database refuses every write.

    Raises:   SpecError: the URL's database is unknown
    """
    parsed = _known(url)
    is_remote = parsed.get_backend_name() == "postgresql"
    limits = {key: value for key, value in NOTICE_SILENCE.items() if key not in parsed.query}
    engine = create_engine(
        parsed,
        pool_pre_ping=True,
        execution_options={"postgresql_readonly": read_only},  # SQLite ignores it
        connect_args=limits if is_remote else {},
    )
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        if read_only:
            event.listen(engine, "connect", _forbid_writes)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _known(url: str) -> URL:
    remedy = "use sqlite:///<path> or postgresql+psycopg://<user>:<password>@<host>/<database>"
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError):
        raise SpecError(f"database_url={shown_address(url)!r} cannot be opened; {remedy}") from None
    in_memory = parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")
    if parsed.get_backend_name() not in ("sqlite", "postgresql") or in_memory:
        raise SpecError(f"database_url={shown_address(url)!r} cannot hold sweeps; {remedy}")
    return parsed


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins transactions, not the driver
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA foreign_keys = ON")
    # A killed process loses no commit. A power cut may lose the last ones; their work is redone.
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _forbid_writes(connection: Any, _: object) -> None:
    connection.execute("PRAGMA query_only = ON").close()


def _begin_sqlite(connection: Connection) -> None:
    """Writers lock at once, because a reader that turns into a writer may fail without waiting."""
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
