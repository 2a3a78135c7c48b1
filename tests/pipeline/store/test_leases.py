from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from evenload.pipeline.errors import LeaseLost
from evenload.pipeline.states import (
    AttemptState,
    Charge,
    Command,
    Order,
    Progress,
    TrialState,
)
from evenload.pipeline.store.sweep_store import SweepStore
from tests.pipeline.store.claims import EVAL, LEASE, OVER, TRAIN, MakeSweep, claimed, expire, states


def test_only_one_of_two_claimants_wins(
    store: SweepStore, sweep_id: str, url: str, open_store: Callable[[str], SweepStore]
) -> None:
    other = open_store(url)
    assert store.claim("t000", TRAIN, "w1", LEASE) is not None
    assert other.claim("t000", TRAIN, "w2", LEASE) is None
    assert store.trial("t000").worker == "w1"


def test_each_kind_of_work_takes_only_trials_that_wait_for_it(
    store: SweepStore, sweep_id: str
) -> None:
    assert store.claim("t000", EVAL, "w", LEASE) is None
    store.finish(claimed(store), TrialState.TRAINED)
    assert store.claim("t000", TRAIN, "w", LEASE) is None
    assert store.claim("t000", EVAL, "w", LEASE) is not None


def test_no_trial_is_claimed_twice_by_16_threads(store: SweepStore, make_sweep: MakeSweep) -> None:
    """Every thread tries all trials; only the condition of the UPDATE prevents a second claim."""
    spec, trials = make_sweep(100)
    store.add_sweep(spec, trials)

    def work(thread: int) -> list[str]:
        order = trials[thread * 6 :] + trials[: thread * 6]
        claims = (store.claim(digest, TRAIN, f"w{thread}", LEASE) for digest, _ in order)
        return [claim.digest for claim in claims if claim is not None]

    with ThreadPoolExecutor(16) as pool:
        taken = [digest for digests in pool.map(work, range(16)) for digest in digests]
    assert sorted(taken) == [digest for digest, _ in trials]
    assert all(len(store.attempts(digest)) == 1 for digest, _ in trials)


def test_no_trial_is_taken_twice_by_16_threads_that_ask_for_any(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    spec, trials = make_sweep(100)
    store.add_sweep(spec, trials)

    def work(thread: int) -> list[str]:
        taken = []
        while claim := store.claim_next(TRAIN, f"w{thread}", LEASE):
            taken.append(claim.digest)
        return taken

    with ThreadPoolExecutor(16) as pool:
        taken = Counter(digest for digests in pool.map(work, range(16)) for digest in digests)
    assert taken == Counter(digest for digest, _ in trials)


def test_a_free_worker_gets_the_oldest_sweep_first_and_its_trials_in_order(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    store.add_sweep(*make_sweep(2, name="z-older", prefix="a"))
    store.add_sweep(*make_sweep(1, name="a-newer", prefix="b"))
    claims = [store.claim_next(TRAIN, "w", LEASE) for _ in range(4)]
    assert [claim and claim.digest for claim in claims] == ["a000", "a001", "b000", None]


def test_a_heartbeat_carries_progress_and_renews_the_lease(
    store: SweepStore, sweep_id: str
) -> None:
    claim = store.claim("t000", TRAIN, "w", OVER)
    assert claim is not None
    progress = Progress(
        step=3, steps=4, tokens=192, tokens_per_second=1e3, loss=math.nan, max_vio=math.inf
    )
    assert store.heartbeat(claim, progress, LEASE) is Command.CONTINUE
    assert expire(store) == []
    stored = store.trial("t000").progress
    assert stored is not None
    assert (stored.step, stored.max_vio) == (3, math.inf)
    assert math.isnan(stored.loss)


def test_a_worker_that_lost_its_lease_cannot_write(store: SweepStore, sweep_id: str) -> None:
    late = store.claim("t000", TRAIN, "late", OVER)
    assert late is not None
    assert expire(store) == ["t000"]
    successor = store.claim("t000", TRAIN, "successor", LEASE)
    assert successor is not None
    before = store.trial("t000")
    with pytest.raises(LeaseLost, match="attempt 1 of trial t000"):
        store.heartbeat(late, None, LEASE)
    with pytest.raises(LeaseLost):
        store.finish(late, TrialState.COMPLETED, {"max_vio": 9.0})
    with pytest.raises(LeaseLost):
        store.release(late)
    assert store.trial("t000") == before
    store.finish(successor, TrialState.TRAINED, {"max_vio": 0.1})
    assert store.trial("t000").result == {"max_vio": 0.1}
    assert [a.state for a in store.attempts("t000")] == [AttemptState.LOST, AttemptState.DONE]


def test_a_lost_lease_cannot_be_written_even_before_a_successor_comes(
    store: SweepStore, sweep_id: str
) -> None:
    late = store.claim("t000", TRAIN, "late", OVER)
    assert late is not None
    expire(store)
    with pytest.raises(LeaseLost):
        store.finish(late, TrialState.TRAINED)
    assert store.trial("t000").state is TrialState.QUEUED


def test_a_trial_can_be_finished_only_once(store: SweepStore, sweep_id: str) -> None:
    claim = claimed(store)
    store.finish(claim, TrialState.FAILED, error="first")
    with pytest.raises(LeaseLost):
        store.finish(claim, TrialState.TRAINED)
    assert store.trial("t000").error == "first"


def test_expiry_costs_a_retry_and_the_trial_waits_for_the_same_work_again(
    store: SweepStore, sweep_id: str
) -> None:
    store.claim("t000", TRAIN, "w", OVER)
    store.finish(claimed(store, "t001"), TrialState.TRAINED)
    store.claim("t001", EVAL, "w", OVER)
    assert sorted(expire(store)) == ["t000", "t001"]
    assert expire(store) == []
    assert states(store, sweep_id) == [TrialState.QUEUED, TrialState.TRAINED]
    assert [trial.failures for trial in store.trials(sweep_id)] == [1, 1]
    assert store.attempts("t000")[0].exit_reason == "lease expired"


def test_a_dead_worker_loses_its_trials_at_once(store: SweepStore, sweep_id: str) -> None:
    store.claim("t000", TRAIN, "dead", LEASE)
    store.claim("t001", TRAIN, "alive", LEASE)
    assert store.lose("dead", "killed by signal 9") == ["t000"]
    assert states(store, sweep_id) == [TrialState.QUEUED, TrialState.TRAINING]
    assert store.trial("t000").failures == 1
    store.claim("t000", TRAIN, "orphan", LEASE)
    assert store.lose("orphan", "its coordinator ended", Charge.NOTHING) == ["t000"]
    assert store.trial("t000").failures == 1


def test_releasing_a_trial_costs_no_retry(store: SweepStore, sweep_id: str) -> None:
    assert store.release(claimed(store)) is TrialState.QUEUED
    trial = store.trial("t000")
    assert (trial.failures, trial.attempt, trial.lease_until) == (0, 1, None)
    assert claimed(store).attempt == 2


def test_a_waiting_trial_is_given_up_only_at_the_attempt_that_was_seen(
    store: SweepStore, sweep_id: str
) -> None:
    assert not store.fail("t000", 1, "no")
    claim = claimed(store)
    assert not store.fail("t000", 1, "it runs")
    store.release(claim)
    assert store.fail("t000", 1, "given up")
    failed = store.trial("t000")
    assert (failed.state, failed.error) == (TrialState.FAILED, "given up")
    assert failed.finished_at is not None


def test_a_trial_is_claimable_as_long_as_somebody_wants_it_and_nobody_has_it(
    store: SweepStore, sweep_id: str
) -> None:
    assert store.is_claimable("t000", TRAIN)
    store.pause(sweep_id)
    assert not store.is_claimable("t000", TRAIN)
    store.resume(sweep_id)
    store.order("t000", Order.PAUSE)
    assert not store.is_claimable("t000", TRAIN)
    store.order("t000", None)
    assert store.claim("t000", TRAIN, "w", LEASE)
    assert not store.is_claimable("t000", TRAIN)
    assert store.is_claimable("t001", TRAIN)
    store.cancel(sweep_id)
    assert not store.is_claimable("t001", TRAIN)
