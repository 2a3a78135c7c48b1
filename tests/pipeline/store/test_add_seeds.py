from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Stage, SweepState, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.policies import SweepPolicies

BASE: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign"},
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SweepStore]:
    store = SweepStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    yield store
    store.close()


def identified(trials: Any) -> list[tuple[str, TrialSpec]]:
    return [(trial.digest("corpus", "core"), trial) for trial in trials]


def finish_all(store: SweepStore, sweep_id: str) -> None:
    for trial in store.trials(sweep_id):
        for kind, state in (
            (WorkKind.TRAIN, TrialState.TRAINED),
            (WorkKind.EVAL, TrialState.COMPLETED),
        ):
            if (claim := store.claim(trial.digest, kind, "w", 60)) is not None:
                store.finish(claim, state, {"val_bits_per_byte": 3.0, "max_vio": 1.0})
    assert store.finish_sweep(sweep_id)


def test_a_finished_sweep_gets_more_seeds_under_the_same_id(store: SweepStore) -> None:
    spec = SweepSpec(name="s", base=BASE, axes={"balancer.kind": ["none", "sign"]})
    sweep_id = store.add_sweep(spec, identified(spec.expand()))
    with pytest.raises(SpecError, match="is active; seeds can be added once it is finished"):
        store.add_seeds(sweep_id, 2)
    policies = SweepPolicies(store, lambda _, trials: identified(trials))
    assert not policies.apply(sweep_id, room=9)
    finish_all(store, sweep_id)
    store.add_seeds(sweep_id, 2)
    assert store.sweep(sweep_id).state is SweepState.ACTIVE
    assert store.sweep(sweep_id).spec["extended"] == [{"seeds": 2, "top": None}]
    assert SweepSpec.trusted(store.sweep(sweep_id).spec).sweep_id() == sweep_id

    fresh = SweepPolicies(store, lambda _, trials: identified(trials))
    assert fresh.apply(sweep_id, room=9)
    trials = store.trials(sweep_id)
    assert [trial.spec["train"]["seed"] for trial in trials] == [0, 0, 1, 1, 2, 2]
    assert {trial.stage for trial in trials} == {Stage.TUNE}
    finish_all(store, sweep_id)
    store.add_seeds(sweep_id, 1)
    assert [one["seeds"] for one in store.sweep(sweep_id).spec["extended"]] == [2, 1]


def test_the_best_settings_of_a_finished_sweep_are_confirmed_once(store: SweepStore) -> None:
    spec = SweepSpec(name="s", base=BASE, axes={"balancer.kind": ["none", "sign"]})
    sweep_id = store.add_sweep(spec, identified(spec.expand()))
    finish_all(store, sweep_id)
    store.add_seeds(sweep_id, 2, top=1)
    assert SweepPolicies(store, lambda _, trials: identified(trials)).apply(sweep_id, room=9)
    confirming = [t for t in store.trials(sweep_id) if t.stage is Stage.CONFIRM]
    assert [trial.spec["train"]["seed"] for trial in confirming] == [1, 1, 2, 2]
    finish_all(store, sweep_id)
    with pytest.raises(SpecError, match="has a confirm stage; add seeds to it without"):
        store.add_seeds(sweep_id, 2, top=1)


def test_a_running_coordinator_reads_the_spec_of_an_extended_sweep_again(
    store: SweepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evenload.pipeline.sweep.policies.STALE_SECONDS", -1.0)
    spec = SweepSpec(name="s", base=BASE, axes={"balancer.kind": ["none", "sign"]})
    sweep_id = store.add_sweep(spec, identified(spec.expand()))
    policies = SweepPolicies(store, lambda _, trials: identified(trials))
    assert not policies.apply(sweep_id, room=9)
    finish_all(store, sweep_id)
    store.add_seeds(sweep_id, 1)
    assert policies.apply(sweep_id, room=9)
    assert len(store.trials(sweep_id)) == 4
