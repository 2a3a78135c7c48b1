"""Two PostgreSQL connections interleaved: the second writer waits, then judges by what is true.

SQLite lets one writer at a time in, so only PostgreSQL can show that a row lock is missing. Each
test opens a transaction, does half of the work, lets a second connection begin, and commits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
import pytest
from sqlalchemy import Connection

from evenload.pipeline.errors import LeaseLost, SpecError
from evenload.pipeline.states import Charge, CurvePoint, Order, Stage, SweepState, TrialState
from evenload.pipeline.store import leases, removal, submission, verbs
from evenload.pipeline.store.sweep_store import SweepStore
from tests.pipeline.store.claims import EVAL, LEASE, TRAIN, MakeSweep, claimed, complete, expire
from tests.pipeline.store.postgres import empty_tables

pytestmark = pytest.mark.postgres

POINT = CurvePoint(step=8, tokens=64, seconds=1.0, val_loss=2.0, max_vio=0.1)
Result = TypeVar("Result")


class Interleaved:
    """Two connections to one database: `other` is a store, `half_done` an open transaction."""

    def __init__(self, url: str, other: SweepStore) -> None:
        self._plain_url = url.replace("+psycopg", "")
        self.other = other

    @contextmanager
    def half_done(self) -> Iterator[Connection]:
        """Commits at the end of the block."""
        with self.other._transaction(writes=True) as connection:
            yield connection

    def wait_until_blocked(self, call: Future[Any]) -> None:
        """Returns once some connection waits for a lock; a call that has returned never will."""
        with psycopg.connect(self._plain_url, autocommit=True) as watching:
            deadline = time.monotonic() + 10
            while not call.done() and time.monotonic() < deadline:
                waiting = watching.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
                row = waiting.fetchone()
                if row is not None and row[0]:
                    return
                time.sleep(0.01)


@pytest.fixture
def url(postgres_url: str) -> str:
    empty_tables(postgres_url)
    return postgres_url


@pytest.fixture
def two(url: str, open_store: Callable[[str], SweepStore]) -> Interleaved:
    return Interleaved(url, open_store(url))


@pytest.fixture
def at_once() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def digests(store: SweepStore, sweep_id: str) -> list[str]:
    return [trial.digest for trial in store.trials(sweep_id)]


def test_trials_that_are_added_at_once_are_listed_one_after_the_other(
    store: SweepStore,
    two: Interleaved,
    at_once: ThreadPoolExecutor,
    sweep_id: str,
    make_sweep: MakeSweep,
) -> None:
    _, first = make_sweep(2, prefix="first")
    _, second = make_sweep(2, prefix="second")
    with two.half_done() as connection:
        submission.add_trials(connection, sweep_id, first, Stage.TUNE)
        adding = at_once.submit(store.add_trials, sweep_id, [first[1], *second])
        two.wait_until_blocked(adding)
    assert adding.result(10) == 2
    places = [f"{prefix}{at:03}" for prefix in ("t", "first", "second") for at in (0, 1)]
    assert digests(store, sweep_id) == places


def test_a_sweep_that_just_gets_trials_is_not_finished(
    store: SweepStore,
    two: Interleaved,
    at_once: ThreadPoolExecutor,
    sweep_id: str,
    make_sweep: MakeSweep,
) -> None:
    complete(store, "t000", "t001")
    with two.half_done() as connection:
        submission.add_trials(connection, sweep_id, make_sweep(1, prefix="n")[1], Stage.CONFIRM)
        finishing = at_once.submit(store.finish_sweep, sweep_id)
        two.wait_until_blocked(finishing)
    assert finishing.result(10) is False
    assert store.sweep(sweep_id).state is SweepState.ACTIVE


def test_two_coordinators_that_admit_a_sweep_list_its_trials_once(
    store: SweepStore, two: Interleaved, at_once: ThreadPoolExecutor, make_sweep: MakeSweep
) -> None:
    spec, trials = make_sweep(2)
    sweep_id = store.submit(spec)
    with two.half_done() as connection:
        assert submission.admit(connection, sweep_id, trials)
        admitting = at_once.submit(store.admit, sweep_id, trials)
        two.wait_until_blocked(admitting)
    assert admitting.result(10) is True
    assert digests(store, sweep_id) == ["t000", "t001"]


def test_two_new_versions_at_once_become_one_after_the_other(
    store: SweepStore,
    two: Interleaved,
    at_once: ThreadPoolExecutor,
    sweep_id: str,
    make_sweep: MakeSweep,
) -> None:
    spec, new = make_sweep(2, prefix="new")
    with two.half_done() as connection:
        submission.submit(connection, spec)
        newer = make_sweep(2, prefix="newer")
        again = at_once.submit(store.add_sweep, *newer, former="data")
        two.wait_until_blocked(again)
        submission.add_sweep(connection, spec, new, former="data")
    assert again.result(10) == sweep_id
    assert digests(store, sweep_id) == ["newer000", "newer001"]
    assert digests(store, f"{sweep_id}.v2") == ["new000", "new001"]


def test_a_curve_that_is_just_written_keeps_its_lease(
    store: SweepStore, two: Interleaved, at_once: ThreadPoolExecutor, sweep_id: str
) -> None:
    """Else the points of a lost attempt would land beside those of its successor."""
    claim = claimed(store)
    with two.half_done() as connection:
        leases.record_curve(connection, claim, [POINT])
        losing = at_once.submit(store.lose, "w", "its node is gone")
        assert losing.result(10) == []
    assert store.curves(sweep_id) == {"t000": [POINT]}
    assert store.lose("w", "its node is gone") == ["t000"]
    with pytest.raises(LeaseLost):
        store.record_curve(claim, [POINT])


def test_a_worker_takes_the_next_trial_instead_of_waiting_for_the_first(
    store: SweepStore, two: Interleaved, at_once: ThreadPoolExecutor, sweep_id: str
) -> None:
    with two.half_done() as connection:
        first = leases.claim_next(connection, TRAIN, "a", LEASE)
        second = at_once.submit(store.claim_next, TRAIN, "b", LEASE).result(10)
    assert first is not None
    assert second is not None
    assert (first.digest, second.digest) == ("t000", "t001")


@pytest.mark.parametrize("taking", ["lose", "expire"])
def test_an_attempt_that_just_ends_is_left_to_its_worker(
    store: SweepStore,
    two: Interleaved,
    at_once: ThreadPoolExecutor,
    sweep_id: str,
    taking: str,
) -> None:
    claim = store.claim("t000", TRAIN, "w", -1.0 if taking == "expire" else LEASE)
    assert claim is not None
    takes = {
        "expire": lambda: expire(store),
        "lose": lambda: store.lose("w", "its node is gone", Charge.RETRY),
    }
    with two.half_done() as connection:
        leases.finish(connection, claim, TrialState.TRAINED)
        assert at_once.submit(takes[taking]).result(10) == []
    assert store.trial("t000").state is TrialState.TRAINED
    assert store.trial("t000").failures == 0


@pytest.mark.parametrize("verb", [SweepStore.pause, SweepStore.stop])
def test_a_verb_that_comes_after_a_cancel_does_not_undo_it(
    store: SweepStore,
    two: Interleaved,
    at_once: ThreadPoolExecutor,
    sweep_id: str,
    verb: Callable[[SweepStore, str], None],
) -> None:
    with two.half_done() as connection:
        verbs.cancel(connection, sweep_id)
        late = at_once.submit(verb, store, sweep_id)
        two.wait_until_blocked(late)
    with pytest.raises(SpecError, match="is cancelled and cannot become"):
        late.result(10)
    assert store.sweep(sweep_id).state is SweepState.CANCELLED


def test_an_order_to_a_trial_that_just_completes_changes_nothing(
    store: SweepStore, two: Interleaved, at_once: ThreadPoolExecutor, sweep_id: str
) -> None:
    store.finish(claimed(store), TrialState.TRAINED)
    claim = claimed(store, kind=EVAL)
    with two.half_done() as connection:
        leases.finish(connection, claim, TrialState.COMPLETED, {"x": 1.0})
        ordering = at_once.submit(store.order, "t000", Order.STOP, "too late")
        two.wait_until_blocked(ordering)
    assert ordering.result(10) is TrialState.COMPLETED
    assert (store.trial("t000").ordered, store.trial("t000").stop_reason) == (None, None)


def test_a_sweep_that_just_gets_trials_is_not_deleted(
    store: SweepStore,
    two: Interleaved,
    at_once: ThreadPoolExecutor,
    sweep_id: str,
    make_sweep: MakeSweep,
) -> None:
    complete(store, "t000", "t001")
    assert store.finish_sweep(sweep_id)
    with two.half_done() as connection:
        submission.add_trials(connection, sweep_id, make_sweep(1, prefix="n")[1], Stage.TUNE)
        deleting = at_once.submit(store.delete, sweep_id)
        two.wait_until_blocked(deleting)
    with pytest.raises(SpecError, match="is active; pause or cancel it"):
        deleting.result(10)
    assert digests(store, sweep_id) == ["t000", "t001", "n000"]


def test_a_sweep_that_is_just_deleted_takes_no_trials(
    store: SweepStore,
    two: Interleaved,
    at_once: ThreadPoolExecutor,
    sweep_id: str,
    make_sweep: MakeSweep,
) -> None:
    store.pause(sweep_id)
    with two.half_done() as connection:
        removal.delete_sweep(connection, sweep_id)
        adding = at_once.submit(store.add_trials, sweep_id, make_sweep(1, prefix="n")[1])
        two.wait_until_blocked(adding)
    with pytest.raises(SpecError, match="is unknown"):
        adding.result(10)
    assert store.sweeps() == []


def test_a_sweep_is_not_finished_while_one_of_its_trials_is_queued_again_for_another(
    store: SweepStore, two: Interleaved, at_once: ThreadPoolExecutor, make_sweep: MakeSweep
) -> None:
    first = store.add_sweep(*make_sweep(1, name="first"))
    second = store.add_sweep(*make_sweep(1, name="second"))
    store.cancel(first, "t000")
    with two.half_done() as connection:
        verbs.resume(connection, first, "t000")
        finishing = at_once.submit(store.finish_sweep, second)
        two.wait_until_blocked(finishing)
    assert finishing.result(10) is False
    assert store.sweep(second).state is SweepState.ACTIVE


def test_a_trial_that_is_queued_again_opens_a_sweep_that_just_finishes(
    store: SweepStore, two: Interleaved, at_once: ThreadPoolExecutor, make_sweep: MakeSweep
) -> None:
    first = store.add_sweep(*make_sweep(1, name="first"))
    second = store.add_sweep(*make_sweep(1, name="second"))
    store.cancel(first, "t000")
    with two.half_done() as connection:
        assert verbs.finished(connection, second)
        resuming = at_once.submit(store.resume, first, "t000")
        two.wait_until_blocked(resuming)
    assert resuming.result(10) == 1
    assert store.sweep(second).state is SweepState.ACTIVE
