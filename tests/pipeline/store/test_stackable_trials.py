from __future__ import annotations

from typing import Any

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Order, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore

BASE: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign", "step_size": 0.01},
    "runtime": {"backend": "torch", "device": "cpu"},  # as resolved
}


def add(store: SweepStore, name: str, digests: str, **fields: Any) -> str:
    """Adds a sweep that lists these trials; each letter is a digest."""
    seeds = [ord(digest) for digest in digests]
    spec = SweepSpec(name=name, base=BASE, axes={"train.seed": seeds}, **fields)
    trials: list[tuple[str, TrialSpec]] = list(zip(digests, spec.expand(), strict=True))
    return store.add_sweep(spec, trials)


def stackable(store: SweepStore, digest: str) -> str:
    """The trials that wait, the last one first."""
    return "".join(store.stackable_trials(digest, 32).last)


def test_stackable_trials_are_the_others_of_the_sweep_the_last_ones_first(
    store: SweepStore,
) -> None:
    add(store, "one", "cab")
    add(store, "other", "xy")
    assert stackable(store, "a") == "bc"
    assert stackable(store, "x") == "y"


def test_of_many_stackable_trials_only_as_many_as_asked_are_named(store: SweepStore) -> None:
    add(store, "one", "abcdef")
    assert store.stackable_trials("a", 2) == (2, ["f", "e"])


def test_only_trials_of_one_shape_are_stackable(store: SweepStore) -> None:
    spec = SweepSpec(
        name="mixed",
        base=BASE,
        axes={
            "balancer": [{"kind": "sign"}, {"kind": "random_router"}],
            "model.num_experts": [8, 16],
        },
    )
    trials = list(zip("abcd", spec.expand(), strict=True))
    store.add_sweep(spec, [*trials, ("e", trials[0][1])])
    assert stackable(store, "a") == "e"
    assert [stackable(store, digest) for digest in "bcd"] == ["", "", ""]


def test_a_trial_of_two_sweeps_sees_the_trials_of_both_once(store: SweepStore) -> None:
    add(store, "one", "ab")
    add(store, "other", "abc")
    assert sorted(stackable(store, "a")) == ["b", "c"]


def test_a_sweep_without_stacking_has_none(store: SweepStore) -> None:
    add(store, "one", "abc", stacking="off")
    assert stackable(store, "a") == ""


def test_only_trials_that_train_or_may_start_count(store: SweepStore) -> None:
    sweep_id = add(store, "one", "abcdef")
    store.claim("b", WorkKind.TRAIN, "w", 60)
    claim = store.claim("f", WorkKind.TRAIN, "w", 60)
    assert claim is not None
    store.finish(claim, TrialState.TRAINED)
    store.order("c", Order.CANCEL)
    store.order("d", Order.PAUSE)
    assert store.stackable_trials("a", 32) == (2, ["e"]), "b trains, e waits"
    store.pause(sweep_id)
    assert stackable(store, "a") == ""
