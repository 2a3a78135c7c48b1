"""Column types and the clock that SQLite and PostgreSQL share."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Double, Float, Text, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, read as UTC. Only the database's clock writes it, see `db_time`."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[dict[str, Any]]):
    """A mapping, stored as JSON text because PostgreSQL's JSON type refuses NaN and inf."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> dict[str, Any] | None:
        found = None if value is None else json.loads(value)
        if found is not None and not isinstance(found, dict):
            raise json.JSONDecodeError("a mapping is expected", str(value), 0)
        return found


class AnyNumber(TypeDecorator[float]):
    """A number that may be NaN, as a loss that diverged. SQLite takes NaN as text only."""

    impl = Double
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        if dialect.name != "sqlite":
            return super().bind_processor(dialect)
        return lambda value: "NaN" if value is not None and math.isnan(value) else value

    def process_result_value(self, value: Any, dialect: Dialect) -> float | None:
        return None if value is None else float(value)


class AnyText(TypeDecorator[str]):
    """Text from anywhere, such as a traceback.

    PostgreSQL refuses NUL, and both databases refuse lone surrogates. A traceback may contain
    either, so they are stored as escapes.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


class db_time(FunctionElement[datetime]):
    """The time of the database's clock plus `after_seconds`. Leases never use a worker's clock."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, after_seconds: float = 0.0) -> None:
        super().__init__(literal(after_seconds, Float))


@compiles(db_time, "sqlite")
def _on_sqlite(element: db_time, compiler: SQLCompiler, **options: Any) -> str:
    offset = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f', 'now', printf('%.3f seconds', {offset}))"


@compiles(db_time, "postgresql")
def _on_postgresql(element: db_time, compiler: SQLCompiler, **options: Any) -> str:
    # now() would be the start of the transaction, which may have waited for a lock since then.
    offset = compiler.process(element.clauses, **options)
    return f"(clock_timestamp() + make_interval(secs => {offset}))"
