"""The store of sweeps, trials and attempts in SQL. It holds the only authoritative state."""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from json import JSONDecodeError
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import ColumnElement, Connection, select, update
from sqlalchemy.exc import (
    DatabaseError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.orm import InstrumentedAttribute

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.errors import SpecError, StoreUnavailable
from evenload.pipeline.redaction import without_secrets_of
from evenload.pipeline.store import (
    conditions,
    leases,
    presence,
    reading,
    removal,
    schema,
    status,
    submission,
    verbs,
)
from evenload.pipeline.store.deeds import note_alarm, told
from evenload.pipeline.store.deeds import read as read_deeds
from evenload.pipeline.store.engine import WRITES, open_engine
from evenload.pipeline.store.models import Sweep, Trial
from evenload.pipeline.store.stackable_trials import stackable_trials

# SQLSTATE of psycopg's errors: an unknown option, a role without the right, read-only.
NOT_ALLOWED = (None, "42501", "25006")
FINAL_ERRORS = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}
DAMAGE = (DatabaseError, sqlite3.DatabaseError, JSONDecodeError)

Arguments = ParamSpec("Arguments")
Found = TypeVar("Found")


def _method(
    function: Callable[Concatenate[Connection, Arguments], Found], writes: bool = False
) -> Callable[Concatenate["SweepStore", Arguments], Found]:
    """A method of the store that calls the function in a transaction of its own."""

    @wraps(function)
    def method(store: "SweepStore", /, *args: Arguments.args, **named: Arguments.kwargs) -> Found:
        with store._transaction(writes) as connection:
            return function(connection, *args, **named)

    return method


class SweepStore:
    """The store, in SQLite (`sqlite:///path`) or PostgreSQL (`postgresql+psycopg://...`).

    Every method is one transaction of the function that it names, which describes it. The
    constructor does not connect; the first use checks the schema. Methods return frozen records
    with times in UTC, by the database's clock.

    Args:     read_only: whether the database must refuse every write
    Raises:   SpecError: the URL, the schema or an id is wrong; the message names the remedy
              StoreUnavailable: the database does not answer
              OSError: the disk of an SQLite file is full, or it may not be written
    """

    def __init__(self, url: str, read_only: bool = False) -> None:
        self._url = url
        self._engine = open_engine(url, read_only)
        self._is_checked = False

    def migrate(self) -> None:
        """Creates or upgrades the schema. Idempotent, and safe in several processes at once."""
        with self._translated():
            schema.migrate(self._engine)

    def close(self) -> None:
        """Closes the connections; the next use opens new ones."""
        self._engine.dispose()

    # What a user asks for

    add_sweep = _method(submission.add_sweep, writes=True)
    submit = _method(submission.submit, writes=True)
    admit = _method(submission.admit, writes=True)
    add_trials = _method(submission.add_trials, writes=True)
    pause = _method(verbs.pause, writes=True)
    resume = _method(verbs.resume, writes=True)
    stop = _method(verbs.stop, writes=True)
    cancel = _method(verbs.cancel, writes=True)
    retry_failed = _method(verbs.retry_failed, writes=True)
    add_seeds = _method(verbs.add_seeds, writes=True)
    set_priority = _method(verbs.set_priority, writes=True)
    order = _method(verbs.order, writes=True)
    delete = _method(removal.delete_sweep, writes=True)
    deletable = _method(removal.deletable)
    unlisted = _method(removal.unlisted)
    delete_unlisted = _method(removal.delete_unlisted, writes=True)

    # What readers see

    sweeps = _method(reading.sweeps)
    sweep = _method(reading.sweep)
    overviews = _method(reading.overviews)
    sweeps_of = _method(reading.sweeps_of)
    held = _method(reading.held)
    counts = _method(reading.counts)
    trials = _method(reading.trials)
    trial = _method(reading.trial)
    digests = _method(reading.digests)
    attempts = _method(reading.attempts)
    curves = _method(reading.curves)
    present = _method(reading.present)
    deeds = _method(read_deeds)
    snapshot = _method(status.snapshot)
    now = _method(reading.now)

    # What workers do

    claim = _method(leases.claim, writes=True)
    claim_next = _method(leases.claim_next, writes=True)
    is_claimable = _method(leases.is_claimable)
    stackable_trials = _method(stackable_trials)
    heartbeat = _method(leases.heartbeat, writes=True)
    record_curve = _method(leases.record_curve, writes=True)
    finish = _method(leases.finish, writes=True)
    release = _method(leases.release, writes=True)
    announce = _method(presence.announce, writes=True)
    withdraw = _method(presence.withdraw, writes=True)

    # What the coordinator does

    expire = _method(leases.expire, writes=True)
    lose = _method(leases.lose, writes=True)
    fail = _method(leases.fail, writes=True)
    end_unwanted = _method(conditions.end_unwanted, writes=True)
    finish_sweep = _method(verbs.finished, writes=True)

    # What alarms do

    told = _method(told)
    note_alarm = _method(note_alarm, writes=True)

    # What MLflow's projection does

    unprojected = _method(reading.unprojected)

    def set_run_id(self, digest: str, run_id: str, instead_of: str | None = None) -> str:
        """Stores the id of a trial's run, unless there is one by now. Returns the stored id."""
        return self._adopt(Trial.run_id, Trial.digest == digest, run_id, instead_of)

    def set_parent_run(self, sweep_id: str, run_id: str) -> str:
        """Stores the id of a sweep's run, unless there is one by now. Returns the stored id."""
        return self._adopt(Sweep.parent_run_id, Sweep.sweep_id == sweep_id, run_id, None)

    def _adopt(
        self,
        column: InstrumentedAttribute[str | None],
        row: ColumnElement[bool],
        run_id: str,
        instead_of: str | None,
    ) -> str:
        with self._transaction(writes=True) as connection:
            same = column.is_not_distinct_from(instead_of)
            connection.execute(update(column.class_).where(row, same).values({column.key: run_id}))
            # Without a row the sweep was deleted meanwhile, and nobody else has another id.
            return connection.execute(select(column).where(row)).scalar_one_or_none() or run_id

    @contextmanager
    def _transaction(self, writes: bool) -> Iterator[Connection]:
        engine = self._engine.execution_options(**{WRITES: writes})
        with self._translated(), engine.begin() as connection:
            if not self._is_checked:
                schema.check(connection)
                self._is_checked = True
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError, sqlite3.OperationalError) as error:
            cause = getattr(error, "orig", error)
            final = FINAL_ERRORS.get((getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF)
            if final is not None:  # waiting does not help
                raise OSError(final, os.strerror(final), shown_address(self._url)) from None
            reason = without_secrets_of(self._url, cause)
            remedy = "check the database and its URL"
            if self._url.startswith("sqlite"):
                remedy = "set EVENLOAD_HOME or EVENLOAD_DATABASE_URL to where the sweeps are"
            raise StoreUnavailable(
                f"{shown_address(self._url)}: {reason}; {remedy}"
            ) from None  # the driver's error may repeat the password
        except (InternalError, ProgrammingError) as error:
            if getattr(error.orig, "sqlstate", "") not in NOT_ALLOWED:
                raise
            reason = without_secrets_of(self._url, error.orig)
            raise SpecError(
                f"{shown_address(self._url)}: {reason}; check the options of the URL and what its "
                "role may do"
            ) from None
        except (DatabaseError, sqlite3.DatabaseError, JSONDecodeError) as error:
            if type(error) not in DAMAGE:  # another subclass has another cause
                raise
            raise SpecError(
                f"{shown_address(self._url)} is damaged: {getattr(error, 'orig', error)}; restore "
                "it from a backup, or move it away to begin a new one"
            ) from None
