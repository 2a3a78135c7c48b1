"""The store of sweeps, trials and attempts in SQL. It holds the only authoritative state."""

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from json import JSONDecodeError
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, select, update
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
from evenload.pipeline.spec.sweep import Extension, SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import (
    AttemptRecord,
    Charge,
    Claim,
    Command,
    CurvePoint,
    DeedRecord,
    Lease,
    Order,
    PresenceRecord,
    Progress,
    Snapshot,
    Stage,
    SweepRecord,
    TrialRecord,
    TrialState,
    WorkKind,
)
from evenload.pipeline.store import (
    deeds,
    leases,
    presence,
    reading,
    removal,
    schema,
    stackable_trials,
    submission,
    verbs,
)
from evenload.pipeline.store.columns import db_time
from evenload.pipeline.store.conditions import end_unwanted, trial_state
from evenload.pipeline.store.engine import WRITES, open_engine
from evenload.pipeline.store.models import Sweep, Trial
from evenload.pipeline.store.stackable_trials import StackableTrial

# SQLSTATE of psycopg's errors: an unknown option, a role without the right, read-only.
NOT_ALLOWED = (None, "42501", "25006")


DAMAGE = (DatabaseError, sqlite3.DatabaseError, JSONDecodeError)


class SweepStore:
    """The store, in SQLite (`sqlite:///path`) or PostgreSQL (`postgresql+psycopg://...`).

    Every method is one transaction. The constructor does not connect; the first use checks the
    schema. Methods return frozen records with times in UTC, by the database's clock.

    Args:     read_only: whether the database must refuse every write
    Raises:   SpecError: the URL, the schema or an id is wrong; the message names the remedy
              StoreUnavailable: the database does not answer
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

    def add_sweep(self, spec: SweepSpec, trials: Sequence[tuple[str, TrialSpec]]) -> str:
        """Stores a sweep and its (digest, trial) pairs; returns its id. Idempotent.

        A trial whose digest is stored already is shared, so it is neither trained nor reported
        twice. If the sweep was stored before with other digests, because its data or the numerical
        core changed, it lists the new ones instead and runs those that are not finished.

        Raises:   SpecError: the sweep was cancelled
        """
        with self._noting("run", spec.sweep_id()) as connection:
            return submission.add_sweep(connection, spec, trials)

    def submit(self, spec: SweepSpec) -> str:
        """Stores a sweep without trials; `evenload serve` lists them later (`admit`)."""
        with self._noting("submit", spec.sweep_id()) as connection:
            return submission.submit(connection, spec)

    def admit(self, sweep_id: str, trials: Sequence[tuple[str, TrialSpec]]) -> bool:
        """Lists the trials of a submitted sweep; False if the sweep is no longer active.

        Raises:   SpecError: an unknown sweep
        """
        with self._writing() as connection:
            return submission.admit(connection, sweep_id, trials)

    def add_trials(
        self, sweep_id: str, trials: Sequence[tuple[str, TrialSpec]], stage: Stage = Stage.TUNE
    ) -> int:
        """Appends trials to the sweep's list; returns how many were new to it.

        A finished sweep becomes active again.

        Raises:   SpecError: the sweep was stopped or cancelled
        """
        with self._writing() as connection:
            return submission.add_trials(connection, sweep_id, trials, stage)

    def pause(self, sweep_id: str, digest: str | None = None, *, note: str | None = None) -> int:
        """Starts no further trials; running trials write a checkpoint and are released.

        Like every verb it is idempotent, and it acts on the whole sweep or, with `digest`, on one
        of its trials as described at `order`.

        Args:     note: the reason, if the program pauses the sweep and not a user
        Returns:  the number of trials it concerns, 0 if the sweep or the trial was so before
        Raises:   SpecError: the sweep or trial is unknown or can no longer be paused
        """
        with self._noting("pause", sweep_id, digest) as connection:
            if digest is None:
                return verbs.pause(connection, sweep_id, note)
            return verbs.order_trial_in(connection, sweep_id, digest, Order.PAUSE)

    def resume(self, sweep_id: str, digest: str | None = None) -> int:
        """Resumes a paused or stopping sweep, or a paused, stopped or cancelled trial."""
        with self._noting("resume", sweep_id, digest) as connection:
            if digest is None:
                return verbs.resume(connection, sweep_id)
            return verbs.order_trial_in(connection, sweep_id, digest, None)

    def stop(self, sweep_id: str, digest: str | None = None) -> int:
        """Ends training: running trials write a checkpoint and end as STOPPED.

        Trained trials are still evaluated, and then the sweep is finished. Trials that another
        sweep also wants continue.
        """
        with self._noting("stop", sweep_id, digest) as connection:
            if digest is None:
                return verbs.stop(connection, sweep_id)
            return verbs.order_trial_in(
                connection, sweep_id, digest, Order.STOP, "stopped by its user"
            )

    def cancel(self, sweep_id: str, digest: str | None = None) -> int:
        """Ends a sweep for good. Trials that another sweep also wants continue.

        A trial that is cancelled alone stays so until it is resumed, whichever sweep lists it.
        """
        with self._noting("cancel", sweep_id, digest) as connection:
            if digest is None:
                return verbs.cancel(connection, sweep_id)
            return verbs.order_trial_in(connection, sweep_id, digest, Order.CANCEL)

    def retry_failed(self, sweep_id: str, digest: str | None = None) -> int:
        """Queues the failed trials again, to resume from their checkpoints; returns how many.

        They get their full budgets of retries and preemptions.
        """
        with self._noting("retry", sweep_id, digest) as connection:
            return verbs.retry_failed(connection, sweep_id, digest)

    def add_seeds(self, sweep_id: str, seeds: int, top: int | None = None) -> None:
        """Makes a finished sweep active again, to train its settings with so many more seeds.

        Args:     top: confirms only so many of the best settings of each answer
        Raises:   SpecError: the sweep is unknown or not finished, it has a confirm stage and `top`
                  is given, or another version stored it
        """
        with self._noting("extend", sweep_id) as connection:
            verbs.extend(connection, sweep_id, Extension(seeds=seeds, top=top))

    def set_priority(self, sweep_id: str, priority: int) -> int:
        """Sets the priority; sweeps of higher priority start first. Running trials continue."""
        with self._noting("priority", sweep_id) as connection:
            return verbs.set_priority(connection, sweep_id, priority)

    def order(
        self,
        digest: str,
        order: Order | None,
        reason: str | None = None,
        *,
        for_sweep: str | None = None,
    ) -> TrialState:
        """Gives an order to one trial, for every sweep that lists it; returns the trial's state.

        PAUSE: the trial writes a checkpoint and waits. STOP: it ends as STOPPED with `reason` and
        keeps its checkpoint; if it is trained already, it is still evaluated. CANCEL: it ends as
        CANCELLED. None lifts the order, and a stopped or cancelled trial resumes from its
        checkpoint. A worker that holds the trial learns of the order at its next heartbeat.

        Args:     for_sweep: the sweep that gives the order; it has no effect on a trial that
                      another active or paused sweep also lists
        Raises:   SpecError: the trial is unknown, or `order` is None and the trial has failed,
                      which needs `retry_failed`
        """
        with self._writing() as connection:
            if for_sweep is not None and verbs.is_shared(connection, digest, for_sweep):
                return trial_state(connection, digest)
            return verbs.order_trial(connection, digest, order, reason)

    def delete(self, sweep_id: str) -> list[str]:
        """Removes a sweep and the trials that no other sweep lists; returns their digests.

        Raises:   SpecError: the sweep is neither over nor paused, a worker holds one of the
                      trials, or a trial of another sweep extends one of them
        """
        with self._noting("delete", sweep_id) as connection:
            return removal.delete_sweep(connection, sweep_id)

    def deletable(self, sweep_id: str) -> list[str]:
        """The digests that `delete` would remove.  Raises: SpecError: as `delete`"""
        with self._reading() as connection:
            return removal.deletable(connection, sweep_id)

    # What readers see

    def sweeps(self) -> list[SweepRecord]:
        """All sweeps, newest first."""
        with self._reading() as connection:
            return reading.sweeps(connection)

    def sweep(self, sweep_id: str) -> SweepRecord:
        with self._reading() as connection:
            return reading.sweep(connection, sweep_id)

    def counts(self, sweep_id: str) -> dict[TrialState, int]:
        """The number of trials of a sweep in each state; states without trials are left out."""
        with self._reading() as connection:
            return reading.counts(connection, sweep_id)

    def trials(
        self, sweep_id: str, states: Collection[TrialState] | None = None, limit: int | None = None
    ) -> list[TrialRecord]:
        """The trials of a sweep in its order; only those in `states`, at most `limit`."""
        with self._reading() as connection:
            return reading.trials(connection, sweep_id, states, limit)

    def trial(self, digest: str) -> TrialRecord:
        with self._reading() as connection:
            return reading.trial(connection, digest)

    def attempts(self, digest: str) -> list[AttemptRecord]:
        """All attempts at a trial, oldest first."""
        with self._reading() as connection:
            return reading.attempts(connection, digest)

    def curves(self, sweep_id: str) -> dict[str, list[CurvePoint]]:
        """The learning curves of a sweep's trials by digest; trials without points are left out."""
        with self._reading() as connection:
            return reading.curves(connection, sweep_id)

    def present(self) -> list[PresenceRecord]:
        """All announced coordinators and workers by role and name; `seen_at` tells who is alive."""
        with self._reading() as connection:
            return reading.present(connection)

    def deeds(self, limit: int = 100) -> list[DeedRecord]:
        """Who asked what of which sweep, newest first."""
        with self._reading() as connection:
            return deeds.read(connection, limit)

    def snapshot(
        self, sweep_ids: Sequence[str] | None = None, max_unstarted: int | None = None
    ) -> Snapshot:
        """The status of these sweeps, or of all, from which `plan` decides what to do.

        Args:     max_unstarted: read only so many of the trials without an attempt, the first in
                      starting order; a caller that can start ten need not read ten thousand
        """
        with self._reading() as connection:
            return reading.snapshot(connection, sweep_ids, max_unstarted)

    # What workers do

    def claim(self, digest: str, kind: WorkKind, worker: str, lease_seconds: float) -> Claim | None:
        """Claims a waiting trial of an active sweep; None if another worker was faster.

        At most one of several simultaneous claims succeeds. The claim has a new attempt number.
        """
        with self._writing() as connection:
            return leases.claim(connection, digest, kind, worker, lease_seconds)

    def is_claimable(self, digest: str, kind: WorkKind) -> bool:
        """Whether a worker may claim the trial now."""
        with self._reading() as connection:
            return leases.is_claimable(connection, digest, kind)

    def stackable_trials(self, digest: str) -> list[StackableTrial]:
        """Other trials, training or waiting for it, of the trial's sweeps with `stacking: auto`.

        They come in the order of their sweeps. This call claims none of them.
        """
        with self._reading() as connection:
            return stackable_trials.stackable_trials(connection, digest)

    def claim_next(self, kind: WorkKind, worker: str, lease_seconds: float) -> Claim | None:
        """Claims the first waiting trial; None if no trial waits.

        Sweeps of higher priority come first, and among equals the older ones.
        """
        with self._writing() as connection:
            return leases.claim_next(connection, kind, worker, lease_seconds)

    def heartbeat(self, claim: Claim, progress: Progress | None, lease_seconds: float) -> Command:
        """Renews the lease; returns whether to continue.  Raises: LeaseLost"""
        with self._writing() as connection:
            return leases.heartbeat(connection, claim, progress, lease_seconds)

    def record_curve(self, claim: Claim, points: Sequence[CurvePoint]) -> None:
        """Adds points to the trial's learning curve or replaces them.  Raises: LeaseLost"""
        with self._writing() as connection:
            leases.record_curve(connection, claim, points)

    def finish(
        self,
        claim: Claim,
        state: TrialState,
        result: Mapping[str, float] | None = None,
        *,
        error: str | None = None,
        checkpoint_uri: str | None = None,
        may_pass: bool = False,
    ) -> TrialState:
        """Ends the attempt with its verdict: TRAINED, COMPLETED, STOPPED or FAILED.

        `result` is merged into the trial's figures. Returns the trial's new state, which is
        CANCELLED if it was TRAINED but no sweep wants it any more.

        Args:     may_pass: whether another attempt may succeed where this one failed; then the
                      trial's first failure only costs a retry, and it waits for another attempt
        Raises:   LeaseLost: nothing was written
        """
        with self._writing() as connection:
            figures = dict(result or {})
            return leases.finish(connection, claim, state, figures, error, checkpoint_uri, may_pass)

    def release(
        self, claim: Claim, reason: str = "told to stop", *, preempted: bool = False
    ) -> TrialState:
        """Releases the trial, which will resume from its checkpoint. This costs no retry.

        Args:     preempted: whether the host is being taken away; this costs one preemption
        Returns:  the trial's new state, CANCELLED if no sweep wants it any more
        Raises:   LeaseLost: nothing was written
        """
        with self._writing() as connection:
            return leases.release(connection, claim, reason, preempted)

    def announce(self, name: str, role: str, facts: Mapping[str, Any]) -> None:
        """Records that `name` is alive, with its facts. Repeat it for as long as that is true."""
        with self._writing() as connection:
            presence.announce(connection, name, role, dict(facts))

    def withdraw(self, name: str) -> None:
        """Removes `name` from the list of living processes, after an orderly end."""
        with self._writing() as connection:
            presence.withdraw(connection, name)

    # What the coordinator does

    def expire(self, overdue: Collection[Lease]) -> list[str]:
        """Takes trials from workers that have not renewed these leases; each costs one retry.

        Returns:  the digests of the trials, which are queued again
        """
        with self._writing() as connection:
            return leases.expire(connection, overdue)

    def lose(self, worker: str, reason: str, charge: Charge = Charge.RETRY) -> list[str]:
        """Queues the trials of a dead worker again, without waiting for the lease to expire.

        Args:     charge: the budget that each trial pays from
        Returns:  the digests
        """
        with self._writing() as connection:
            return leases.lose(connection, worker, reason, charge)

    def fail(self, digest: str, attempt: int, reason: str) -> bool:
        """Marks a waiting trial FAILED; False if it has another attempt by now or does not wait."""
        with self._writing() as connection:
            return leases.fail(connection, digest, attempt, reason)

    def end_unwanted(self) -> None:
        """Ends waiting trials that no sweep wants any more.

        Every verb does so too, but on PostgreSQL a worker that releases its trial at the same
        moment may have read the sweep as it was before.
        """
        with self._writing() as connection:
            end_unwanted(connection)

    def finish_sweep(self, sweep_id: str) -> bool:
        """Marks an active or stopping sweep FINISHED; False if one of its trials is not final."""
        with self._writing() as connection:
            return verbs.finished(connection, sweep_id)

    # What MLflow's projection does

    def unprojected(
        self, since: datetime | None, unended: Collection[str]
    ) -> list[tuple[TrialRecord, str | None]]:
        """Started trials whose run in MLflow may lack something, with the first sweep of each.

        Args:     since: leave out trials that were final by then; None: look at all trials
                  unended: ids of the runs that have not ended in MLflow
        """
        with self._reading() as connection:
            return reading.unprojected(connection, since, unended)

    def now(self) -> datetime:
        """The time of the database's clock."""
        with self._reading() as connection:
            return connection.execute(select(db_time())).scalar_one()

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
        with self._writing() as connection:
            same = column.is_not_distinct_from(instead_of)
            connection.execute(update(column.class_).where(row, same).values({column.key: run_id}))
            # Without a row the sweep was deleted meanwhile, and nobody else has another id.
            return connection.execute(select(column).where(row)).scalar_one_or_none() or run_id

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction(self._engine)

    def _writing(self) -> AbstractContextManager[Connection]:
        return self._transaction(self._engine.execution_options(**{WRITES: True}))

    @contextmanager
    def _noting(self, verb: str, sweep_id: str, digest: str | None = None) -> Iterator[Connection]:
        """As `_writing`, and notes who did it."""
        with self._writing() as connection:
            yield connection
            deeds.note(connection, verb, sweep_id, digest)

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
        except (OperationalError, InterfaceError, sqlite3.OperationalError) as error:
            reason = without_secrets_of(self._url, getattr(error, "orig", error))
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
