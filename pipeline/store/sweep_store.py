"""Sweeps, trials and attempts in SQL: the truth, of which everything else holds a copy at most."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, exists, select, update
from sqlalchemy.exc import InterfaceError, OperationalError

from evenload.pipeline.errors import StoreUnavailable
from evenload.pipeline.settings import without_password
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import (
    AttemptRecord,
    Charge,
    Claim,
    Command,
    CurvePoint,
    Order,
    PresenceRecord,
    Progress,
    Snapshot,
    Stage,
    SweepRecord,
    SweepState,
    TrialRecord,
    TrialState,
    WorkKind,
)
from evenload.pipeline.store import (
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
from evenload.pipeline.store.conditions import ACTIVE_FOR, end_unwanted, is_unfinished, trial_state
from evenload.pipeline.store.engine import WRITES, open_engine
from evenload.pipeline.store.models import Sweep, SweepTrial, Trial
from evenload.pipeline.store.stackable_trials import StackableTrial


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
        new ones instead, and runs again where they are not finished.

        Raises:   SpecError: the sweep was cancelled
        """
        with self._writing() as connection:
            return submission.add_sweep(connection, spec, trials)

    def submit(self, spec: SweepSpec) -> str:
        """Stores a sweep whose trials whoever runs it will list with `add_sweep`."""
        with self._writing() as connection:
            return submission.submit(connection, spec)

    def admit(self, sweep_id: str, trials: Sequence[tuple[str, TrialSpec]]) -> bool:
        """Lists the trials of a submitted sweep; False where it is not active any more.

        Raises:   SpecError: an unknown sweep
        """
        with self._writing() as connection:
            return submission.admit(connection, sweep_id, trials)

    def add_trials(
        self, sweep_id: str, trials: Sequence[tuple[str, TrialSpec]], stage: Stage = Stage.TUNE
    ) -> int:
        """Lists more trials, after those that the sweep has; returns how many were new to it.

        A finished sweep is active again then.

        Raises:   SpecError: the sweep was stopped or cancelled
        """
        with self._writing() as connection:
            return submission.add_trials(connection, sweep_id, trials, stage)

    def pause(self, sweep_id: str, digest: str | None = None, *, note: str | None = None) -> None:
        """Starts nothing new; running trials write a checkpoint and are given back.

        Like every verb it is meant for the sweep, or with `digest` for one trial of it; done twice
        it is done once. See `order` for what it does to a trial.

        Args:     note: why, where it is no user who pauses the sweep
        Raises:   SpecError: an unknown sweep or trial, or one that cannot be paused any more
        """
        with self._writing() as connection:
            if digest is None:
                verbs.pause(connection, sweep_id, note)
            else:
                verbs.order_trial_in(connection, sweep_id, digest, Order.PAUSE)

    def resume(self, sweep_id: str, digest: str | None = None) -> None:
        """Goes on after `pause`. A trial goes on also after `stop` and `cancel`."""
        with self._writing() as connection:
            if digest is None:
                verbs.resume(connection, sweep_id)
            else:
                verbs.order_trial_in(connection, sweep_id, digest, None)

    def stop(self, sweep_id: str, digest: str | None = None) -> None:
        """Trains no further: running trials write a checkpoint and end as STOPPED.

        What is trained is still evaluated; then the sweep is finished. Trials that another sweep
        wants too go on.
        """
        with self._writing() as connection:
            if digest is None:
                verbs.stop(connection, sweep_id)
            else:
                verbs.order_trial_in(
                    connection, sweep_id, digest, Order.STOP, "stopped by its user"
                )

    def cancel(self, sweep_id: str, digest: str | None = None) -> None:
        """Ends a sweep for good. Trials that another sweep wants too go on."""
        with self._writing() as connection:
            if digest is None:
                verbs.cancel(connection, sweep_id)
            else:
                verbs.order_trial_in(connection, sweep_id, digest, Order.CANCEL)

    def retry_failed(self, sweep_id: str, digest: str | None = None) -> int:
        """Queues the failed trials again, from their checkpoints; returns how many.

        Their budgets of retries and preemptions are full again.
        """
        with self._writing() as connection:
            return verbs.retry_failed(connection, sweep_id, digest)

    def set_priority(self, sweep_id: str, priority: int) -> None:
        """Sweeps of a higher priority start first. What runs already goes on."""
        with self._writing() as connection:
            verbs.set_priority(connection, sweep_id, priority)

    def order(
        self,
        digest: str,
        order: Order | None,
        reason: str | None = None,
        *,
        for_sweep: str | None = None,
    ) -> TrialState:
        """What is to happen to one trial, in every sweep that lists it; returns its state now.

        PAUSE: it waits, with a checkpoint. STOP: it ends as STOPPED with `reason`, its checkpoint
        stays; one that is trained already is still evaluated. CANCEL: it ends as CANCELLED.
        None lifts an order; a stopped or cancelled trial goes on from its checkpoint then. A
        worker that holds the trial learns of it by its next heartbeat.

        Args:     for_sweep: on behalf of this sweep only: nothing happens to a trial that another
                      one, active or paused, wants too
        Raises:   SpecError: no such trial; None for a failed one, which `retry_failed` is for
        """
        with self._writing() as connection:
            if for_sweep is not None and verbs.is_shared(connection, digest, for_sweep):
                return trial_state(connection, digest)
            return verbs.order_trial(connection, digest, order, reason)

    def delete(self, sweep_id: str) -> list[str]:
        """Removes a sweep, and the trials that no other sweep lists; returns their digests.

        Raises:   SpecError: it is not over or paused, a worker holds a trial, or a trial of
                      another sweep waits to start from one
        """
        with self._writing() as connection:
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
        """How many trials of a sweep are in each state; states without any are left out."""
        with self._reading() as connection:
            return reading.counts(connection, sweep_id)

    def trials(
        self,
        sweep_id: str,
        states: Collection[TrialState] | None = None,
        limit: int | None = None,
    ) -> list[TrialRecord]:
        """The trials of a sweep in its order: those in these states, the first `limit`."""
        with self._reading() as connection:
            return reading.trials(connection, sweep_id, states, limit)

    def trial(self, digest: str) -> TrialRecord:
        with self._reading() as connection:
            return reading.trial(connection, digest)

    def attempts(self, digest: str) -> list[AttemptRecord]:
        """Every attempt at a trial, first to newest."""
        with self._reading() as connection:
            return reading.attempts(connection, digest)

    def curves(self, sweep_id: str) -> dict[str, list[CurvePoint]]:
        """Digest -> held-out losses by step, of the trials of a sweep that have some."""
        with self._reading() as connection:
            return reading.curves(connection, sweep_id)

    def present(self) -> list[PresenceRecord]:
        """Everybody who said `presence` and not `absence`, by role and name; see `seen_at`."""
        with self._reading() as connection:
            return reading.present(connection)

    def snapshot(
        self, sweep_ids: Sequence[str] | None = None, max_unstarted: int | None = None
    ) -> Snapshot:
        """Where these sweeps stand, None for all: what `plan` decides from.

        Args:     max_unstarted: how many of the trials that nobody tried yet to read, the first to
                      start; None is all. Who can start ten need not read ten thousand
        """
        with self._reading() as connection:
            return reading.snapshot(connection, sweep_ids, max_unstarted)

    # What workers do

    def claim(self, digest: str, kind: WorkKind, worker: str, lease_seconds: float) -> Claim | None:
        """Takes a waiting trial of an active sweep; None where another was faster.

        Of any number of claimants at most one gets it. The attempt number it gets is new.
        """
        with self._writing() as connection:
            return leases.claim(connection, digest, kind, worker, lease_seconds)

    def stackable_trials(self, digest: str) -> list[StackableTrial]:
        """Other trials that train, or wait for it, in the sweeps of this one.

        Of sweeps with `stacking: auto` only. One that waits is still to be claimed.
        """
        with self._reading() as connection:
            return stackable_trials.stackable_trials(connection, digest)

    def claim_next(self, kind: WorkKind, worker: str, lease_seconds: float) -> Claim | None:
        """Takes the first waiting trial of the first sweep that has one; None where none has.

        Sweeps of a higher priority come first, then older ones.
        """
        with self._writing() as connection:
            return leases.claim_next(connection, kind, worker, lease_seconds)

    def heartbeat(self, claim: Claim, progress: Progress | None, lease_seconds: float) -> Command:
        """Renews the lease and says whether to go on.  Raises: LeaseLost"""
        with self._writing() as connection:
            return leases.heartbeat(connection, claim, progress, lease_seconds)

    def record_curve(self, claim: Claim, points: Sequence[CurvePoint]) -> None:
        """Adds points to the trial's curve; a step that it has is replaced.  Raises: LeaseLost"""
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
        run_id: str | None = None,
    ) -> TrialState:
        """Ends the attempt with its verdict: TRAINED, COMPLETED, STOPPED or FAILED.

        `result` joins the figures that the trial has. Returns the state the trial is in now:
        CANCELLED where it was TRAINED and nobody wants it any more.

        Raises:   LeaseLost: nothing was written
        """
        with self._writing() as connection:
            figures = dict(result or {})
            return leases.finish(connection, claim, state, figures, error, checkpoint_uri, run_id)

    def release(
        self, claim: Claim, reason: str = "told to stop", *, preempted: bool = False
    ) -> TrialState:
        """Gives the trial back; it will go on from its checkpoint. Costs no retry.

        Args:     preempted: its host is being taken away; paid from the budget of preemptions
        Returns the state the trial is in now: CANCELLED where nobody wants it any more.

        Raises:   LeaseLost: nothing was written
        """
        with self._writing() as connection:
            return leases.release(connection, claim, reason, preempted)

    def set_run_id(self, digest: str, run_id: str) -> None:
        with self._writing() as connection:
            connection.execute(update(Trial).where(Trial.digest == digest).values(run_id=run_id))

    def announce(self, name: str, role: str, facts: Mapping[str, Any]) -> None:
        """Says that `name` is here, and these facts of it. Who lives says it again and again."""
        with self._writing() as connection:
            presence.announce(connection, name, role, dict(facts))

    def withdraw(self, name: str) -> None:
        """Takes `name` off the list: it ended as it should."""
        with self._writing() as connection:
            presence.withdraw(connection, name)

    # What the coordinator does

    def expire(self) -> list[str]:
        """Takes trials from workers whose lease ran out, at a retry each; returns the digests."""
        with self._writing() as connection:
            return leases.expire(connection)

    def lose(self, worker: str, reason: str, charge: Charge = Charge.RETRY) -> list[str]:
        """Takes what a dead worker held from it at once.

        Args:     charge: what it costs the trial
        """
        with self._writing() as connection:
            return leases.lose(connection, worker, reason, charge)

    def fail(self, digest: str, attempt: int, reason: str) -> bool:
        """Gives a waiting trial up; False where it is not at this attempt, or not waiting."""
        with self._writing() as connection:
            return leases.fail(connection, digest, attempt, reason)

    def end_unwanted(self) -> None:
        """Ends waiting trials that no sweep wants any more.

        Every verb does that by itself; on PostgreSQL a worker that gives its trial back at the same
        moment may have seen the sweep as it was before.
        """
        with self._writing() as connection:
            end_unwanted(connection)

    def finish_sweep(self, sweep_id: str) -> bool:
        """Marks a sweep FINISHED that is active or stopping; False where a trial is not final."""
        with self._writing() as connection:
            # First the lock, then the look: PostgreSQL would judge by what it saw before it waited.
            connection.execute(
                select(Sweep.sweep_id).where(Sweep.sweep_id == sweep_id).with_for_update()
            )
            left = exists().where(SweepTrial.sweep_id == sweep_id, is_unfinished())
            finished = connection.execute(
                update(Sweep)
                .where(
                    Sweep.sweep_id == sweep_id, Sweep.state.in_(ACTIVE_FOR[WorkKind.EVAL]), ~left
                )
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
