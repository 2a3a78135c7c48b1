"""Copied sweeps look like those whose trials the product's functions finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenload.pipeline.states import SweepState, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from infra.benchmarks import filled_store


def test_copies_of_a_sweep_are_like_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filled_store, "PER_SWEEP", 3)
    url = f"sqlite:///{tmp_path / 'store.db'}"
    ids = filled_store.fill(url, finished=6, opened=6)
    store = SweepStore(url)
    found = {one.sweep.sweep_id: one for one in store.overviews()}
    assert sorted(found) == sorted(ids)
    done, copied, open_, more = (found[sweep_id] for sweep_id in ids)
    assert done.counts == copied.counts == {TrialState.COMPLETED: 3}
    assert (copied.sweep.state, copied.done) == (SweepState.FINISHED, 1.0)
    assert open_.counts == more.counts == {TrialState.TRAINING: 1, TrialState.QUEUED: 2}
    own, others = ({t.digest for t in store.trials(ids[at])} for at in (0, 1))
    assert not own & others
    assert all(len(store.attempts(digest)) == 2 for digest in others)
    store.close()
