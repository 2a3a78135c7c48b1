from __future__ import annotations

import pytest
from sqlalchemy import text

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import SweepState, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from tests.pipeline.store.claims import LEASE, TRAIN, MakeSweep, complete, states


def test_submitting_a_sweep_is_idempotent(store: SweepStore, make_sweep: MakeSweep) -> None:
    spec, trials = make_sweep(3)
    assert store.add_sweep(spec, trials) == store.add_sweep(spec, trials) == spec.sweep_id()
    assert [sweep.sweep_id for sweep in store.sweeps()] == [spec.sweep_id()]
    assert [trial.digest for trial in store.trials(spec.sweep_id())] == ["t000", "t001", "t002"]
    record = store.trials(spec.sweep_id())[1]
    assert TrialSpec.model_validate(record.spec) == trials[1][1]
    assert record.label == "sign 0.01"


def test_a_trial_of_two_sweeps_is_trained_once_and_reported_in_both(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    first = store.add_sweep(*make_sweep(2, name="first"))
    complete(store, "t000")
    second = store.add_sweep(*make_sweep(1, name="second"))
    assert store.claim("t000", TRAIN, "w", LEASE) is None
    assert store.trials(first)[0] == store.trials(second)[0]


def test_equal_digests_of_one_sweep_are_one_trial(store: SweepStore, make_sweep: MakeSweep) -> None:
    spec, trials = make_sweep(2)
    store.add_sweep(spec, [trials[0], ("t000", trials[1][1])])
    assert len(store.trials(spec.sweep_id())) == 1


def test_a_sweep_with_new_digests_lists_only_those_and_runs_again(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    sweep_id = store.add_sweep(*make_sweep(1, prefix="old"))
    complete(store, "old000")
    assert store.finish_sweep(sweep_id)
    store.add_sweep(*make_sweep(1, prefix="new"))
    assert [trial.digest for trial in store.trials(sweep_id)] == ["new000"]
    assert store.sweep(sweep_id).state is SweepState.ACTIVE
    assert store.trial("old000").state is TrialState.COMPLETED


def test_a_submitted_sweep_waits_for_its_trials(store: SweepStore, make_sweep: MakeSweep) -> None:
    spec, trials = make_sweep(1)
    sweep_id = store.submit(spec)
    assert not store.sweep(sweep_id).is_expanded
    assert store.trials(sweep_id) == []
    store.add_sweep(spec, trials)
    assert store.sweep(sweep_id).is_expanded


def test_a_new_sweep_revives_trials_that_another_one_cancelled(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    store.cancel(store.add_sweep(*make_sweep(2, name="first")))
    second = store.add_sweep(*make_sweep(2, name="second"))
    assert states(store, second) == [TrialState.QUEUED] * 2


def test_a_cancelled_sweep_is_not_run_again_under_its_name(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    spec, trials = make_sweep(1)
    store.cancel(store.add_sweep(spec, trials))
    with pytest.raises(SpecError, match="was cancelled; run it under another name"):
        store.add_sweep(spec, trials)


def test_a_failed_write_leaves_nothing_behind(store: SweepStore, make_sweep: MakeSweep) -> None:
    spec, trials = make_sweep(2)
    with pytest.raises(AttributeError):
        store.add_sweep(spec, [trials[0], ("t001", None)])  # type: ignore[list-item]
    assert store.sweeps() == []
    assert store.claim_next(TRAIN, "w", LEASE) is None


def test_foreign_keys_are_enforced(store: SweepStore) -> None:
    with (
        pytest.raises(Exception, match=r"(?i)foreign key"),
        store._transaction(writes=True) as connection,
    ):
        connection.execute(
            text("INSERT INTO sweep_trial (sweep_id, digest, position) VALUES ('no', 'such', 0)")
        )
