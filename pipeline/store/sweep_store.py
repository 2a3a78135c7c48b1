"""Sweeps, trials and attempts in SQL: the truth, of which everything else holds a copy at most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, Engine, exists, update
from sqlalchemy.exc import InterfaceError, OperationalError

from pipeline.errors import StoreUnavailable
from pipeline.records import (
    AttemptRecord,
    Claim,
    Command,
    Progress,
    Snapshot,
    SweepRecord,
    SweepState,
    TrialRecord,
    TrialState,
    WorkKind,
)
from pipeline.settings import without_password
from pipeline.spec import TrialSpec
from pipeline.store import leases, reading, schema, submission, verbs
from pipeline.store.columns import db_time
from pipeline.store.engine import WRITES, open_engine
from pipeline.store.models import Sweep, SweepTrial, Trial
from pipeline.store.standing import is_unfinished
from pipeline.sweep_spec import SweepSpec


class SweepStore:
    """One method, one transaction. SQLite (`sqlite:///path`) or PostgreSQL (`postgresql+psycopg://`).

    Opening connects to nothing. The first use checks the schema. What comes back are frozen
    records; times are those of the database's clock, UTC.

    Raises:   SpecError: the URL, the schema or an id is not what it must be, with the remedy;
              StoreUnavailable: the database does not answer
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine = open_engine(url)
        self._is_checked = False

    def migrate(self) -> None:
        """Creates or upgrades the schema; does nothing to a current one. Safe to race."""
        with self._translated():
            schema.migrate(self._engine)

    def close(self) -> None:
        """Gives connections back; the next use opens new ones."""
        self._engine.dispose()

    # What a user asks for

    def add_sweep(self, spec: SweepSpec, trials: Sequence[tuple[str, TrialSpec]]) -> str:
        """Stores a sweep and its (digest, trial) pairs; returns its id. Doing it twice is once.

        A digest that is known already is shared: neither trained nor reported twice. A sweep that
        comes again with other digests, because its data or the numerical core changed, lists the
        new ones, and runs again where they are not finished.

        Raises:   SpecError: the sweep was cancelled
        """
        with self._writing() as connection:
            return submission.add_sweep(connection, spec, trials)

    def submit(self, spec: SweepSpec) -> str:
        """Stores a sweep whose trials whoever runs it will list with `add_sweep`."""
        with self._writing() as connection:
            return submission.submit(connection, spec)

    def pause(self, sweep_id: str) -> None:
        """Starts nothing new; running trials write a checkpoint and are given back."""
        with self._writing() as connection:
            verbs.pause(connection, sweep_id)

    def resume(self, sweep_id: str) -> None:
        with self._writing() as connection:
            verbs.resume(connection, sweep_id)

    def cancel(self, sweep_id: str) -> None:
        """Ends a sweep for good. Trials that another sweep wants too go on."""
        with self._writing() as connection:
            verbs.cancel(connection, sweep_id)

    def retry_failed(self, sweep_id: str) -> int:
        """Queues the failed trials again, from their checkpoints; returns how many."""
        with self._writing() as connection:
            return verbs.retry_failed(connection, sweep_id)

    # What readers see

    def sweeps(self) -> list[SweepRecord]:
        """All sweeps, newest first."""
        with self._reading() as connection:
            return reading.sweeps(connection)

    def sweep(self, sweep_id: str) -> SweepRecord:
        with self._reading() as connection:
            return reading.sweep(connection, sweep_id)

    def trials(self, sweep_id: str) -> list[TrialRecord]:
        """The trials of a sweep in its order."""
        with self._reading() as connection:
            return reading.trials(connection, sweep_id)

    def trial(self, digest: str) -> TrialRecord:
        with self._reading() as connection:
            return reading.trial(connection, digest)

    def attempts(self, digest: str) -> list[AttemptRecord]:
        """Every attempt at a trial, first to newest."""
        with self._reading() as connection:
            return reading.attempts(connection, digest)

    def snapshot(self, sweep_ids: Sequence[str] | None = None) -> Snapshot:
        """Where these sweeps stand, None for all: what `plan` decides from."""
        with self._reading() as connection:
            return reading.snapshot(connection, sweep_ids)

    # What workers do

    def claim(self, digest: str, kind: WorkKind, worker: str, lease_seconds: float) -> Claim | None:
        """Takes a waiting trial of an active sweep; None where another was faster.

        Of any number of claimants at most one gets it. The attempt number it gets is new.
        """
        with self._writing() as connection:
            return leases.claim(connection, digest, kind, worker, lease_seconds)

    def claim_next(self, kind: WorkKind, worker: str, lease_seconds: float) -> Claim | None:
        """Takes the first waiting trial of the oldest active sweep; None where there is none."""
        with self._writing() as connection:
            return leases.claim_next(connection, kind, worker, lease_seconds)

    def heartbeat(self, claim: Claim, progress: Progress | None, lease_seconds: float) -> Command:
        """Renews the lease and says whether to go on.  Raises: LeaseLost"""
        with self._writing() as connection:
            return leases.heartbeat(connection, claim, progress, lease_seconds)

    def finish(
        self,
        claim: Claim,
        state: TrialState,
        result: Mapping[str, float] | None = None,
        *,
        error: str | None = None,
        checkpoint_uri: str | None = None,
        run_id: str | None = None,
    ) -> TrialState:
        """Ends the attempt with its verdict: TRAINED, COMPLETED or FAILED.

        `result` joins the figures that the trial has. Returns the state the trial is in now:
        CANCELLED where it was TRAINED and nobody wants it any more.

        Raises:   LeaseLost: nothing was written
        """
        with self._writing() as connection:
            figures = dict(result or {})
            return leases.finish(connection, claim, state, figures, error, checkpoint_uri, run_id)

    def release(self, claim: Claim, reason: str = "told to stop") -> TrialState:
        """Gives the trial back; it will go on from its checkpoint. Costs no retry.

        Returns the state the trial is in now: CANCELLED where nobody wants it any more.

        Raises:   LeaseLost: nothing was written
        """
        with self._writing() as connection:
            return leases.release(connection, claim, reason)

    def set_run_id(self, digest: str, run_id: str) -> None:
        with self._writing() as connection:
            connection.execute(update(Trial).where(Trial.digest == digest).values(run_id=run_id))

    # What the coordinator does

    def expire(self) -> list[str]:
        """Takes trials from workers whose lease ran out, at a retry each; returns the digests."""
        with self._writing() as connection:
            return leases.expire(connection)

    def lose(self, worker: str, reason: str, *, counts: bool = True) -> list[str]:
        """Takes what a dead worker held from it at once.

        Args:     counts: whether it costs the trial a retry
        """
        with self._writing() as connection:
            return leases.lose(connection, worker, reason, counts)

    def fail(self, digest: str, attempt: int, reason: str) -> bool:
        """Gives a waiting trial up; False where it is not at this attempt, or not waiting."""
        with self._writing() as connection:
            return leases.fail(connection, digest, attempt, reason)

    def finish_sweep(self, sweep_id: str) -> bool:
        """Marks an active sweep FINISHED; False where a trial of it is not final."""
        with self._writing() as connection:
            left = exists().where(SweepTrial.sweep_id == sweep_id, is_unfinished())
            finished = connection.execute(
                update(Sweep)
                .where(Sweep.sweep_id == sweep_id, Sweep.state == SweepState.ACTIVE, ~left)
                .values(state=SweepState.FINISHED, finished_at=db_time())
            )
            return finished.rowcount == 1

    def set_parent_run(self, sweep_id: str, run_id: str) -> None:
        with self._writing() as connection:
            connection.execute(
                update(Sweep).where(Sweep.sweep_id == sweep_id).values(parent_run_id=run_id)
            )

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction(self._engine)

    def _writing(self) -> AbstractContextManager[Connection]:
        return self._transaction(self._engine.execution_options(**{WRITES: True}))

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        with self._translated(), engine.begin() as connection:
            if not self._is_checked:
                schema.check(connection)
                self._is_checked = True
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            where = without_password(self._url)
            raise StoreUnavailable(
                f"{where}: {error.orig}; check the database and its URL"
            ) from error
