"""Faults that the product once had, or might get, to show that the simulation finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ColumnElement, Connection, func, select, update

from evenload.pipeline.records.fence import Fence
from evenload.pipeline.states import AttemptState, Lease, SweepState, TrialState
from evenload.pipeline.store import leases, submission, verbs
from evenload.pipeline.store.columns import db_time
from evenload.pipeline.store.conditions import end_unwanted
from evenload.pipeline.store.models import Attempt, Sweep, SweepTrial, Trial
from evenload.pipeline.sweep.lease_watch import LeaseWatch
from evenload.workers.actors.actor import Actor
from evenload.workers.actors.heartbeat import Heartbeat
from tests.simulation import world as world_module
from tests.simulation.world import EPOCH

Plant = Callable[[pytest.MonkeyPatch], None]


def revives_what_its_user_cancelled(patch: pytest.MonkeyPatch) -> None:
    def take_up(connection: Connection, sweep_id: str) -> None:
        listed = select(SweepTrial.digest).where(SweepTrial.sweep_id == sweep_id)
        revived = Trial.digest.in_(listed) & (Trial.state == TrialState.CANCELLED)
        submission.requeue(connection, revived)
        submission.reopen_unfinished(connection, Sweep.sweep_id == sweep_id)
        end_unwanted(connection)

    patch.setattr(submission, "_take_up", take_up)


def leaves_other_sweeps_finished(patch: pytest.MonkeyPatch) -> None:
    def requeue(connection: Connection, chosen: ColumnElement[bool], **values: object) -> int:
        again = {"state": TrialState.QUEUED, "ordered": None, "finished_at": None, **values}
        return connection.execute(update(Trial).where(chosen).values(again)).rowcount

    patch.setattr(submission, "requeue", requeue)
    patch.setattr(verbs, "requeue", requeue)


def moves_the_end_of_a_cancelled_sweep(patch: pytest.MonkeyPatch) -> None:
    def cancel(connection: Connection, sweep_id: str) -> int:
        verbs._turn(connection, sweep_id, SweepState.CANCELLED)
        verbs._set(connection, sweep_id, finished_at=db_time())
        end_unwanted(connection)
        return 0

    patch.setattr(verbs, "cancel", cancel)


def compares_leases_with_the_clock(patch: pytest.MonkeyPatch) -> None:
    """So a jump, a sleeping laptop, an outage and a fresh coordinator cost retries."""

    def overdue(_: LeaseWatch, held: Iterable[Lease]) -> tuple[Lease, ...]:
        world = world_module.CLOCK[0]
        now = EPOCH + timedelta(seconds=world.now + world.database_ahead)
        return tuple(one for one in held if one.renewed_at + timedelta(seconds=one.seconds) < now)

    patch.setattr(LeaseWatch, "overdue", overdue)


def counts_the_time_when_it_does_not_look(patch: pytest.MonkeyPatch) -> None:
    from evenload.pipeline.sweep import lease_watch

    patch.setattr(lease_watch, "MOST_PER_LOOK", 1000.0)


def goes_on_without_an_answer_or_an_owner(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Heartbeat, "_is_certain", lambda _: True)
    patch.setattr(Fence, "check", lambda _: None)


def does_not_ask_for_the_owner(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fence, "check", lambda fence: fence._confirm())


def sweeps_what_others_write(patch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def staged(fence: Fence, path: Path) -> Iterator[Path]:
        staging = path.with_name(f"{path.name}.{fence._attempt}.tmp")
        yield staging
        staging.rename(path)
        for leftover in path.parent.glob("*.tmp"):
            leftover.unlink(missing_ok=True)

    patch.setattr(Fence, "staged", staged)


def takes_verdicts_of_any_attempt(patch: pytest.MonkeyPatch) -> None:
    def is_running(digest: str, number: int) -> ColumnElement[bool]:
        running = (Attempt.digest == digest) & (Attempt.state == AttemptState.RUNNING)
        return running & (func.abs(number) > 0)

    patch.setattr(leases, "_is_running", is_running)


def forgets_a_claim_whose_answer_was_lost(patch: pytest.MonkeyPatch) -> None:
    def claim(actor: Any, digest: str) -> Any:
        seconds = actor._settings.lease_seconds
        return actor._store.claim(digest, actor.kind, actor._worker_id, seconds)

    patch.setattr(Actor, "_claim", claim)


# Each with a seed that fails; one of the first.
FAILS_AT: dict[Plant, int] = {
    revives_what_its_user_cancelled: 3,
    leaves_other_sweeps_finished: 3,
    moves_the_end_of_a_cancelled_sweep: 8,
    goes_on_without_an_answer_or_an_owner: 5,
}
# No failing seed is known for these yet; `python -m tests.simulation --plant NAME` seeks one.
SOUGHT: tuple[Plant, ...] = (
    compares_leases_with_the_clock,
    counts_the_time_when_it_does_not_look,
    does_not_ask_for_the_owner,
    sweeps_what_others_write,
    takes_verdicts_of_any_attempt,
    forgets_a_claim_whose_answer_was_lost,
)
