"""What users and finished work decided stays decided, and a lease ends by silence alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from sqlalchemy import make_url, text

from evenload.pipeline.errors import SpecError
from evenload.pipeline.states import AttemptState, CurvePoint, SweepState, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from tests.pipeline.store.claims import (
    LEASE,
    MakeSweep,
    claimed,
    complete,
    states,
)


def test_a_trial_that_its_user_cancelled_stays_so_until_it_is_resumed(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    spec, trials = make_sweep(2)
    sweep_id = store.add_sweep(spec, trials)
    assert store.cancel(sweep_id, "t000") == 1
    assert store.cancel(sweep_id, "t000") == 0
    store.add_sweep(spec, trials)
    store.add_trials(sweep_id, make_sweep(1, prefix="n")[1])
    store.add_sweep(*make_sweep(1, name="other"))
    assert states(store, sweep_id)[0] is TrialState.CANCELLED
    assert store.resume(sweep_id, "t000") == 1
    assert states(store, sweep_id)[0] is TrialState.QUEUED


def test_a_trial_that_was_cancelled_with_its_sweep_can_be_cancelled_for_good(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    first = store.add_sweep(*make_sweep(2, name="first"))
    store.cancel(first)
    store.cancel(first, "t001")
    second = store.add_sweep(*make_sweep(2, name="second"))
    assert states(store, second) == [TrialState.QUEUED, TrialState.CANCELLED]


def test_verbs_tell_how_many_trials_they_concern_and_0_when_repeated(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    sweep_id = store.add_sweep(*make_sweep(3))
    complete(store, "t000")
    for verb in (store.pause, store.resume, store.stop, store.cancel):
        assert (verb(sweep_id), verb(sweep_id)) == ((2, 0) if verb != store.cancel else (0, 0))


def test_cancelling_again_does_not_move_the_time_of_the_end(
    store: SweepStore, sweep_id: str
) -> None:
    store.cancel(sweep_id)
    ended = store.sweep(sweep_id).finished_at
    store.cancel(sweep_id)
    assert store.sweep(sweep_id).finished_at == ended


@pytest.mark.parametrize("again", ["retry", "resume", "a new sweep"])
def test_a_trial_that_is_queued_again_opens_every_finished_sweep_that_lists_it(
    again: str, store: SweepStore, make_sweep: MakeSweep
) -> None:
    first = store.add_sweep(*make_sweep(1, name="first"))
    second = store.add_sweep(*make_sweep(1, name="second"))
    if again == "retry":
        store.finish(claimed(store), TrialState.FAILED, error="no")
    else:
        store.cancel(first, "t000")
    assert store.finish_sweep(second)
    if again == "retry":
        store.retry_failed(first)
    else:
        store.resume(first, "t000")
    if again == "a new sweep":
        store.add_sweep(*make_sweep(1, name="third"))
    assert store.sweep(second).state is SweepState.ACTIVE
    assert store.sweep(second).finished_at is None


def test_only_a_lease_whose_last_renewal_was_seen_expires(store: SweepStore, sweep_id: str) -> None:
    renewed, silent = claimed(store, "t000"), claimed(store, "t001")
    leases = [trial.lease for trial in store.snapshot().trials if trial.lease]
    assert [lease.seconds for lease in leases] == [LEASE, LEASE]
    with store._transaction(
        writes=True
    ) as connection:  # so that both renewals differ also within a millisecond
        connection.execute(text("UPDATE attempt SET heartbeat_at = '2026-01-01 00:00:00.000'"))
    seen = [trial.lease for trial in store.snapshot().trials if trial.lease]
    assert store.expire(leases) == [], "these renewals are not the newest"
    store.heartbeat(renewed, None, LEASE)
    assert store.expire(seen) == [silent.digest]


def test_a_first_failure_that_may_pass_costs_a_retry_and_a_second_ends_the_trial(
    store: SweepStore, sweep_id: str
) -> None:
    for expected in (TrialState.QUEUED, TrialState.FAILED):
        claim = claimed(store)
        assert store.finish(claim, TrialState.FAILED, error="disk full", may_pass=True) is expected
    assert [attempt.state for attempt in store.attempts("t000")] == [AttemptState.FAILED] * 2
    assert (store.trial("t000").failures, store.trial("t000").error) == (1, "disk full")
    assert store.finish(claimed(store, "t001"), TrialState.FAILED, error="no") is TrialState.FAILED


@pytest.mark.parametrize("value", [math.nan, math.inf, 2.5])
def test_a_point_of_a_curve_may_have_any_number(
    store: SweepStore, sweep_id: str, value: float
) -> None:
    point = CurvePoint(step=1, tokens=8, seconds=0.5, val_loss=value, max_vio=value)
    store.record_curve(claimed(store), [point])
    ((found,),) = store.curves(sweep_id).values()
    assert str(found) == str(point)


@pytest.mark.postgres
def test_a_server_that_vanishes_is_noticed_within_a_lease(
    postgres_url: str, open_store: Callable[[str], SweepStore]
) -> None:
    with open_store(postgres_url)._engine.connect() as connection:
        told = connection.connection.dbapi_connection.info.get_parameters()  # type: ignore[union-attr]
        assert told["connect_timeout"] == "10"
        assert int(told["tcp_user_timeout"]) <= 10_000
        assert int(told["keepalives_idle"]) <= 5
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "30s"
    stated = make_url(postgres_url).update_query_dict({"options": "-c statement_timeout=7000"})
    own = open_store(stated.render_as_string(hide_password=False))
    with own._engine.connect() as connection:
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "7s"


def test_a_trial_that_no_sweep_takes_up_again_is_not_resumed(
    store: SweepStore, sweep_id: str
) -> None:
    store.cancel(sweep_id)
    before = store.trial("t000")
    with pytest.raises(SpecError, match="is cancelled, and no other sweep wants trial t000"):
        store.resume(sweep_id, "t000")
    assert store.trial("t000") == before
