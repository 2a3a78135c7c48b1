from __future__ import annotations

import pytest
from sqlalchemy import text

from evenload.pipeline.errors import OtherVersion, SpecError
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


def test_other_digests_are_refused_until_somebody_agrees_and_then_keep_the_old_results(
    store: SweepStore, make_sweep: MakeSweep
) -> None:
    sweep_id = store.add_sweep(*make_sweep(1, prefix="old"), {"data": "1"})
    complete(store, "old000")
    assert store.finish_sweep(sweep_id)
    with pytest.raises(OtherVersion) as refused:
        store.add_sweep(*make_sweep(1, prefix="new"), {"data": "2"})
    assert (refused.value.trials, refused.value.basis) == (1, {"data": "1"})
    assert [trial.digest for trial in store.trials(sweep_id)] == ["old000"], "nothing is written"

    store.add_sweep(*make_sweep(1, prefix="new"), {"data": "2"}, "data changed")
    assert [trial.digest for trial in store.trials(sweep_id)] == ["new000"]
    assert store.sweep(sweep_id).state is SweepState.ACTIVE
    former = store.sweep(f"{sweep_id}.v1")
    assert (former.state, former.note) == (SweepState.FINISHED, "data changed")
    assert states(store, former.sweep_id) == [TrialState.COMPLETED]

    store.add_sweep(*make_sweep(1, prefix="newer"), {}, "code changed")
    unfinished = store.sweep(f"{sweep_id}.v2")
    assert unfinished.state is SweepState.CANCELLED, "a finished sweep has no open trial"
    assert states(store, unfinished.sweep_id) == [TrialState.CANCELLED]


def test_a_former_version_gets_no_more_seeds(store: SweepStore, make_sweep: MakeSweep) -> None:
    sweep_id = store.add_sweep(*make_sweep(1, prefix="old"))
    complete(store, "old000")
    store.add_sweep(*make_sweep(1, prefix="new"), {}, "data changed")
    with pytest.raises(SpecError, match=f"former version of {sweep_id}"):
        store.add_seeds(f"{sweep_id}.v1", 1)


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
