from __future__ import annotations

import errno
from pathlib import Path

import pytest
from sqlalchemy import text

from evenload.pipeline.errors import SpecError
from evenload.pipeline.states import AttemptState, SweepState, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from tests.pipeline.store.claims import EVAL, TRAIN, MakeSweep, claimed, complete


def test_a_trial_lives_from_queued_to_completed(store: SweepStore, sweep_id: str) -> None:
    claim = claimed(store)
    assert (claim.attempt, claim.sweep_id) == (1, sweep_id)
    assert store.trial("t000").state is TrialState.TRAINING
    store.finish(claim, TrialState.TRAINED, {"max_vio": 0.5, "x": 1.0}, checkpoint_uri="file:///c")
    assert store.trial("t000").state is TrialState.TRAINED
    second = claimed(store, kind=EVAL)
    assert (second.attempt, second.checkpoint_uri) == (2, "file:///c")
    store.finish(second, TrialState.COMPLETED, {"val_loss": 2.0, "x": 3.0})
    done = store.trial("t000")
    assert done.state is TrialState.COMPLETED
    assert done.result == {"max_vio": 0.5, "x": 3.0, "val_loss": 2.0}
    assert (done.checkpoint_uri, done.lease_until) == ("file:///c", None)
    assert [attempt.state for attempt in store.attempts("t000")] == [AttemptState.DONE] * 2
    assert [attempt.kind for attempt in store.attempts("t000")] == [TRAIN, EVAL]


def test_a_sweep_is_finished_only_when_all_its_trials_are(store: SweepStore, sweep_id: str) -> None:
    complete(store, "t000")
    assert not store.finish_sweep(sweep_id)
    complete(store, "t001")
    assert store.finish_sweep(sweep_id)
    assert not store.finish_sweep(sweep_id)
    assert store.sweep(sweep_id).state is SweepState.FINISHED


def test_the_first_run_id_of_several_writers_stays(store: SweepStore, sweep_id: str) -> None:
    assert store.set_parent_run(sweep_id, "parent") == "parent"
    assert store.set_parent_run(sweep_id, "late") == "parent"
    assert store.set_run_id("t000", "lost") == "lost"
    assert store.set_run_id("t000", "child", instead_of="lost") == "child"
    assert store.set_run_id("t000", "late", instead_of="lost") == "child"
    assert store.sweep(sweep_id).parent_run_id == "parent"
    assert store.trial("t000").run_id == "child"


def test_a_full_disk_is_no_outage_that_one_waits_for(tmp_path: Path, make_sweep: MakeSweep) -> None:
    store = SweepStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    with store._transaction(writes=True) as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(OSError, match="No space left on device") as full:
        store.add_sweep(*make_sweep(200))
    assert full.value.errno == errno.ENOSPC
    assert not isinstance(full.value, SpecError)
    store.close()
